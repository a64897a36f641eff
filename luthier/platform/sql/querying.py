"""What a caller may read, opened for his queries: tables, and the views that they name; and views made of queries."""

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from luthier.errors import InvalidInput
from luthier.platform.access import Caller
from luthier.platform.jobs import now_ms
from luthier.platform.models import Opened, TableInfo, ViewInfo
from luthier.platform.names import QualifiedName, fold, parse_name, quote
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.tables import all_tables
from luthier.platform.securables import INFORMATION_SCHEMA, is_taken
from luthier.platform.settings import Settings
from luthier.platform.sql.sql_dialect import trimmed
from luthier.platform.sql.sql_engine import SqlEngine, TableFile, ViewQuery, one_of
from luthier.platform.sql.sql_session import Asker
from luthier.platform.sql.view_queries import standing_for, tables_in, view_reads
from luthier.platform.wire import CreateView

MAX_CHARS = 65_536
"""Of a view: lists hold a thousand of them, and what reads a view is written out with its query."""


def open_engine(
    settings: Settings, registry: Registry, caller: Caller, *queries: str, more: Sequence[TableFile] = (), **extras: Any
) -> SqlEngine:
    """A locked SQL engine over more tables, and those and the views that the queries name and the caller may read, in
    the default schema."""
    database, schema = settings.database, settings.schema_name
    names = list(dict.fromkeys(name for query in queries for name in tables_in(query, database, schema)))
    opened = registry.views.open(caller, names) if names else Opened()
    files = [*map(_file, opened.named), *more]
    if any(name.schema.upper() == INFORMATION_SCHEMA for name in names):
        files += _beside(files, all_tables(registry.tables, caller))
    hints: list[QualifiedName] = []
    if not {*names} <= {*(file.name for file in files), *(parse_name(view, "", "") for view in opened.asked)}:
        known = [table.name for table in registry.tables.show(caller)]
        known += [view.name for view in registry.views.show(caller)]
        hints = [parse_name(each, "", "") for each in known]
    asker = _asker(settings, registry, caller)
    views = _queries(opened, asker)
    return SqlEngine(files, database, schema, views=views, asker=asker, hints=hints, **extras)


def create_view(settings: Settings, registry: Registry, caller: Caller, new: CreateView) -> ViewInfo | None:
    """The view that was made; None where one is there and is to be kept."""
    name, query = parse_name(new.name, settings.database, settings.schema_name), trimmed(new.query)
    if len(query) + len(new.comment) > MAX_CHARS:
        raise InvalidInput(f"A view's query and comment have at most {MAX_CHARS:,} characters together.")
    if "\0" in query + new.comment:
        raise InvalidInput("A view's query and comment have no NUL character.")
    draft = ViewInfo(
        name=name.display,
        owner=caller.user,
        role=caller.role,
        query=query,
        reads=[read.dotted for read in view_reads(query, name)],
        gives=[],
        columns=[],
        comment=new.comment,
        is_secure=new.is_secure,
        created_on=now_ms(),
    )
    opened = registry.views.beneath(caller, name, draft, new.if_there)
    if opened is None:
        return None
    (made_of,) = _queries(opened, _asker(settings, registry, caller))
    with SqlEngine([], name.database, name.schema, views=[made_of]) as engine:
        gives = engine.gives(made_of)
    view = draft.model_copy(update={"gives": gives, "columns": _columns(new, name.name, gives)})
    return view if registry.views.create(caller, name, view, new.if_there) else None


def _asker(settings: Settings, registry: Registry, caller: Caller) -> Asker:
    return Asker(caller, settings.region, cache(partial(registry.roles.held, caller)))


def _file(table: TableInfo) -> TableFile:
    return TableFile(parse_name(table.name, "", ""), Path(table.path))


def _beside(files: Sequence[TableFile], tables: Sequence[TableInfo]) -> list[TableFile]:
    """The others that INFORMATION_SCHEMA is to list: of those that an engine takes for one, the first."""
    taken = {one_of(file.name) for file in files}
    others: dict[tuple[str, ...], TableFile] = {}
    for file in map(_file, tables):
        others.setdefault(one_of(file.name), file)
    return [file for key, file in others.items() if key not in taken and not is_taken(file.name.database)]


def _columns(new: CreateView, name: str, gives: list[str]) -> list[str]:
    columns = gives if new.columns is None else [fold(quote(column)) for column in new.columns]
    if len(columns) != len(gives):
        raise InvalidInput(
            f"View definition for '{name}' declared {len(columns)} column(s), but view query produces {len(gives)} "
            f"column(s)."
        )
    for each in (gives, columns):
        twice = [column for column, num in Counter(column.upper() for column in each).items() if num > 1]
        if twice:
            raise InvalidInput(f"duplicate column name '{twice[0]}': give one of them another name by AS.")
    return columns


def _queries(opened: Opened, asker: Asker) -> list[ViewQuery]:
    return [
        ViewQuery(
            parse_name(name, "", ""),
            standing_for(name, opened, asker),
            tuple(str(Path(table.path).resolve()) for table in opened.tables.values()),
            _is_secure(name, opened),
        )
        for name in opened.asked
    ]


def _is_secure(name: str, opened: Opened) -> bool:
    """It, or a view beneath it."""
    view = opened.views.get(name)
    return view is not None and (view.is_secure or any(_is_secure(each, opened) for each in view.reads))
