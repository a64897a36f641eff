"""Views as SQL: what a query reads by name, what may stand in a view, and the query that stands for a view. Pure.

In a view a name means what it means in the view's own schema, whoever reads it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlglot import exp, parse_one

from luthier.errors import InvalidSql
from luthier.platform.models import Opened
from luthier.platform.names import QualifiedName, parse_name, quote
from luthier.platform.securables import RESERVED
from luthier.platform.sql.sql_dialect import gated, paid_calls, rendered
from luthier.platform.sql.sql_session import Asker

NO_FEWER_ROWS = 2**63 - 1
"""No condition of who reads a view gets past a LIMIT: what the view leaves out cannot be told from errors."""


def tables_in(sql: str, database: str, schema: str) -> list[QualifiedName]:
    """The tables and views that a statement reads by name, as often as it names them."""
    return [_meant(table, database, schema) for table in _read_by_name(gated(sql))]


def view_reads(query: str, view: QualifiedName) -> list[QualifiedName]:
    """The same of a view's query. InvalidSql for what may not stand in one."""
    if paid := next(iter(paid_calls(gated(query))), None):
        raise InvalidSql(
            f"A view holds no {paid.upper()}, which is billed to whoever calls it: call it in the query that reads "
            f"the view."
        )
    reads = tables_in(query, view.database, view.schema)
    for name in reads:
        if name.database in RESERVED or name.schema in RESERVED:
            raise InvalidSql(f"A view does not read {name.dotted}, which is another for each role: query it itself.")
    return reads


def standing_for(name: str, opened: Opened, asker: Asker | None = None) -> str:
    """DuckDB's query for the rows of a view, down to the files of tables. It is none that passes the gate."""
    return _rows(name, opened, asker).sql("duckdb", comments=False)


def _rows(name: str, opened: Opened, asker: Asker | None) -> exp.Query:
    """A view, or a table."""
    if name in opened.tables:
        path = exp.Literal.string(str(Path(opened.tables[name].path).resolve()))
        file = exp.Anonymous(this="read_parquet", expressions=[path])
        return exp.select("*").from_(exp.Table(this=file))
    view, place = opened.views[name], parse_name(name, "", "")
    full = _in_full(gated(view.query), place.database, place.schema)
    tree = parse_one(rendered(full, asker), read="duckdb")
    for table in [table for table in tree.find_all(exp.Table) if table.catalog]:
        _put(table, _rows(QualifiedName(table.catalog, table.db, table.name).dotted, opened, asker))
    assert isinstance(tree, exp.Query)  # the gate lets nothing else through
    if not view.gives:  # it is being made
        return tree
    renamed = [f"{quote(given)} AS {quote(shown)}" for given, shown in zip(view.gives, view.columns, strict=True)]
    query = exp.select(*renamed, dialect="duckdb").from_(_under(place.name, tree))
    return query.limit(NO_FEWER_ROWS) if view.is_secure else query


def _in_full(tree: exp.Expr, database: str, schema: str) -> exp.Expr:
    """Each table by its full name; names of WITH stay as they are."""
    for table in list(_read_by_name(tree)):
        for part, key in zip(("catalog", "db", "this"), _meant(table, database, schema).parts, strict=True):
            table.set(part, exp.to_identifier(key, quoted=True))
    for column in tree.find_all(exp.Column):  # of a table that will be a query with the table's last name
        column.set("catalog", None)
        column.set("db", None)
    return tree


def _put(table: exp.Table, query: exp.Query) -> None:
    """The query in the table's place, under its name."""
    given = {key: value for key, value in table.args.items() if value and key not in ("this", "db", "catalog")}
    if unknown := given.keys() - exp.Subquery.arg_types.keys():
        raise InvalidSql(f"In a view {table.name} is read as it is now, without {', '.join(unknown).upper()}.")
    table.replace(_under(table.name, query, **given))


def _under(name: str, query: exp.Query, **given: Any) -> exp.Subquery:
    alias = exp.TableAlias(this=exp.to_identifier(name, quoted=True))
    return exp.Subquery(this=query, **{"alias": alias, **given})


def _read_by_name(tree: exp.Expr) -> Iterator[exp.Table]:
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and not _is_of_with(table):
            yield table


def _is_of_with(table: exp.Table) -> bool:
    """Whether a WITH around it gives the name: to its query all names, to each of its own those before it."""
    node, before = None if table.db else table.parent, None
    while node is not None:
        if isinstance(node, exp.CTE):
            before = (node.index or 0) + bool(node.parent and node.parent.args.get("recursive"))
        elif with_ := node.args.get("with_"):
            given = [_key(each.args["alias"].this) for each in with_.expressions]
            if _key(table.this) in given[:before]:
                return True
            before = None
        node = node.parent
    return False


def _meant(table: exp.Table, database: str, schema: str) -> QualifiedName:
    given = [_key(part) for part in (table.args.get("catalog"), table.args.get("db"), table.this) if part]
    return QualifiedName(*[database, schema][: 3 - len(given)], *given)


def _key(name: exp.Identifier) -> str:
    return name.name if name.args.get("quoted") else name.name.upper()
