"""Pages of a list: so many rows from behind the last that the reader has seen."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from luthier.errors import NotFound
from luthier.platform.frozen import Frozen
from luthier.platform.store import Store


class Page(Frozen):
    limit: int
    after: str | None = None
    """An id; None: from the start."""
    oldest_first: bool = False


def page_rows(
    store: Store, table: sa.Table, seen: sa.ColumnElement[bool], page: Page, *where: sa.ColumnElement[bool]
) -> list[dict[str, Any]]:
    """Of those that the caller sees, by the column `number`; one more than the limit if there are more."""
    columns = table.c
    if page.after is not None:
        last = store.rows(sa.select(columns.number).where(seen, columns.id == page.after))
        if not last:
            raise NotFound(f"There is nothing {page.after!r} for the list to go on after.")
        number = last[0]["number"]
        where = (*where, columns.number > number if page.oldest_first else columns.number < number)
    order = columns.number if page.oldest_first else columns.number.desc()
    return store.rows(sa.select(table).where(seen, *where).order_by(order).limit(page.limit + 1))


def firsts(
    tx: sa.Connection,
    table: sa.Table,
    parts: Sequence[sa.ColumnElement[bool]],
    order: Sequence[sa.UnaryExpression[Any]],
    limit: int,
) -> list[dict[str, Any]]:
    """The first rows of all parts, which have none in common. An index that has the order of each part is enough:
    no more than `limit` rows of a part are looked at, however many there are."""
    query = sa.select(table)
    if not parts:
        return []
    if len(parts) == 1:
        query = query.where(parts[0])
    else:
        ids = [sa.select(table.c.id).where(part).order_by(*order).limit(limit).subquery() for part in parts]
        query = query.where(table.c.id.in_(sa.union_all(*(sa.select(each.c.id) for each in ids))))
    return [dict(row) for row in tx.execute(query.order_by(*order).limit(limit)).mappings()]
