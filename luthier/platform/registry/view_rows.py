"""Rows of views, and what is beneath them, each as its owner's role may read it. No verbs: those stand in views.py."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import sqlalchemy as sa

from luthier.errors import InvalidSql
from luthier.platform.access import Caller
from luthier.platform.models import Opened, ViewInfo
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard, securable
from luthier.platform.registry.objects import is_named, named
from luthier.platform.registry.tables import to_table
from luthier.platform.securables import ObjectKind
from luthier.platform.store import Row, Store, fetch, fetch_first

MAX_VIEWS = 256
"""Beneath one statement."""
MAX_DEPTH = 16
"""Views over views."""
MAX_READS = 256
"""Tables that a view reads in the end, each as often as it does."""
MAX_NAMES = 1_000
"""Tables and views of one statement."""
READING = {ObjectKind.TABLE: Action.READ_TABLE, ObjectKind.VIEW: Action.READ_VIEW}


class ViewRows:
    def __init__(self, store: Store, guard: Guard) -> None:
        self._guard = guard
        self.views, self.tables = store.table("views"), store.table("tables")

    def find(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> Row | None:
        return fetch_first(tx, sa.select(self.views).where(is_named(self.views, caller, name)))

    def readable(
        self, tx: sa.Connection, caller: Caller, kind: ObjectKind, names: Iterable[QualifiedName]
    ) -> dict[str, Row]:
        """Tables or views of these names that the caller may read, by full names."""
        wanted, table = set(names), self.views if kind is ObjectKind.VIEW else self.tables
        if len(wanted) > MAX_NAMES:
            raise InvalidSql(f"{len(wanted)} tables and views are read here: at most {MAX_NAMES} are allowed.")
        query = sa.select(table).where(
            table.c.account == caller.account, table.c.name.in_({each.name for each in wanted})
        )
        rows = [row for row in fetch(tx, query) if named(row) in wanted]
        allowed = self._guard.allowed(tx, caller, READING[kind], kind, rows) if rows else []
        return {named(row).dotted: row for row in allowed}

    def open(self, tx: sa.Connection, caller: Caller, asked: dict[str, Row]) -> Opened:
        """With all that is beneath. InvalidSql where something there is gone, or is closed to who owns the view."""
        views, waiting = dict(asked), list(asked)
        tables: dict[str, Row] = {}
        above: dict[str, str] = {}
        while waiting:
            name = waiting.pop()
            view = views[name]
            owner = Caller(account=view["account"], user=view["owner"], role=view["role"])
            reads = [parse_name(name, "", "") for name in view["reads"]]
            found = {kind: self.readable(tx, owner, kind, reads) for kind in READING}
            known = {*found[ObjectKind.TABLE], *found[ObjectKind.VIEW]}
            lost = next((each for each in view["reads"] if each not in known), None)
            if lost is not None:
                raise self._lost(tx, caller, lost, [views[each] for each in _upwards(name, above)])
            tables |= found[ObjectKind.TABLE]
            fresh = [each for each in found[ObjectKind.VIEW] if each not in views]
            above |= dict.fromkeys(fresh, name)
            waiting += fresh
            views = {**found[ObjectKind.VIEW], **views}
            if len(views) > MAX_VIEWS:
                raise InvalidSql(f"More than {MAX_VIEWS} views are beneath what is read here: read fewer at a time.")
        return Opened(
            asked=tuple(asked),
            views={name: to_view(row) for name, row in views.items()},
            tables={name: to_table(row) for name, row in tables.items()},
        )

    def told(self, tx: sa.Connection, caller: Caller, rows: Sequence[Row]) -> list[ViewInfo]:
        """A secure view's query is told to who has the role that owns it."""
        hidden = {"query": "", "reads": [], "gives": []}
        return [
            to_view({**row, **({} if not row["is_secure"] or self._may_inspect(tx, caller, row) else hidden)})
            for row in rows
        ]

    def _lost(self, tx: sa.Connection, caller: Caller, lost: str, views: Sequence[Row]) -> InvalidSql:
        """What the first of the views reads, each read by the next. Nothing beneath a secure one is told."""
        closed = [view for view in views if view["is_secure"] and not self._may_inspect(tx, caller, view)]
        view, what = (closed[-1], "What it reads") if closed else (views[0], f"Object '{lost}'")
        return InvalidSql(
            f"Failure during expansion of view {view['display']}: {what} does not exist or not authorized."
        )

    def _may_inspect(self, tx: sa.Connection, caller: Caller, view: Row) -> bool:
        return self._guard.may(tx, caller, Action.INSPECT_VIEW, securable(ObjectKind.VIEW, view))


def _upwards(name: str, above: Mapping[str, str]) -> Iterator[str]:
    """A view, and those above it up to one that was asked for."""
    step: str | None = name
    while step is not None:
        yield step
        step = above.get(step)


def to_view(row: Row) -> ViewInfo:
    return ViewInfo(name=row["display"], **{key: row[key] for key in ViewInfo.model_fields if key != "name"})


def check_size(opened: Opened) -> Opened:
    """A view is written out where it stands, so that what is beneath counts each time."""
    known = dict.fromkeys(opened.tables, (0, 1))

    def weigh(name: str, num_above: int) -> tuple[int, int]:
        """How deep it is, and how many tables it reads."""
        if name not in known and num_above < MAX_DEPTH:
            beneath = [weigh(each, num_above + 1) for each in opened.views[name].reads]
            known[name] = (1 + max((deep for deep, _ in beneath), default=0), sum(num for _, num in beneath) or 1)
        if name not in known or num_above + known[name][0] > MAX_DEPTH:
            raise InvalidSql(f"Views over views are more than {MAX_DEPTH} deep here: read what is beneath them.")
        return known[name]

    for name in opened.asked:
        _, num = weigh(name, 0)
        if num > MAX_READS:
            view = opened.views[name].name
            raise InvalidSql(f"View {view} reads {num} tables, views beneath it counted: at most {MAX_READS}.")
    return opened
