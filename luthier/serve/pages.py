"""Pages of a list, as the native API gives them."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from luthier.platform.registry.paging import MAX_SHOWN

Limit = Annotated[int, Query(ge=1, le=MAX_SHOWN)]
Shown = TypeVar("Shown")


def paged(
    name: str, rows: Sequence[Shown], limit: int, key: Callable[[Shown], str], told: Callable[[Shown], Any]
) -> dict[str, Any]:
    """`next` is the `after` of the next page, where there may be one."""
    more = {"next": key(rows[-1])} if len(rows) == limit else {}
    return {name: [told(row) for row in rows], **more}
