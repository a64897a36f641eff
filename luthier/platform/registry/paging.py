"""Pages of a list: so many rows from behind the last that the reader has seen."""

from typing import Any

import sqlalchemy as sa

from luthier.errors import NotFound
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.registry.guard import Guard
from luthier.platform.store import Store


class Page(Frozen):
    limit: int
    after: str | None = None
    """An id; None: from the start."""
    oldest_first: bool = False


def page_rows(
    store: Store, table: sa.Table, caller: Caller, page: Page, *where: sa.ColumnElement[bool]
) -> list[dict[str, Any]]:
    """Of the caller's roles, by the column `number`; one more than the limit if there are more."""
    columns = table.c
    with store.reading() as tx:
        own = Guard(store).own(tx, caller, table)
    if page.after is not None:
        last = store.rows(sa.select(columns.number).where(own, columns.id == page.after))
        if not last:
            raise NotFound(f"There is nothing {page.after!r} for the list to go on after.")
        number = last[0]["number"]
        where = (*where, columns.number > number if page.oldest_first else columns.number < number)
    order = columns.number if page.oldest_first else columns.number.desc()
    return store.rows(sa.select(table).where(own, *where).order_by(order).limit(page.limit + 1))
