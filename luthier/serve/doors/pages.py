"""Pages of a list, as the native API gives them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query

from luthier.platform.frozen import Frozen
from luthier.platform.registry.paging import MAX_SHOWN

MOST = 2**53
"""More than anything is counted to, and an integer of every store's."""
Limit = Annotated[int, Query(ge=1, le=MAX_SHOWN)]
Behind = Annotated[int, Query(ge=0, le=MOST)]
"""How many rows came before, or the number of the last."""
Row = TypeVar("Row", bound=Frozen)


@dataclass
class Page:
    """What a request asks for of a list."""

    after: str | None = None
    limit: Limit = MAX_SHOWN

    def told(
        self, name: str, rows: Sequence[Row], key: Callable[[Row], str], shown: Iterable[Any] | None = None
    ) -> dict[str, Any]:
        return paged(name, rows, self.limit, key, shown)


@dataclass
class PageBehind:
    """Of a list that tells its pages by how many rows came before."""

    after: Behind = 0
    limit: Limit = MAX_SHOWN

    def told(self, name: str, rows: Sequence[Row]) -> dict[str, Any]:
        return paged(name, rows, self.limit, lambda _last: str(self.after + self.limit))


PageOf = Annotated[Page, Depends()]
PageBehindOf = Annotated[PageBehind, Depends()]


def paged(
    name: str, rows: Sequence[Row], limit: int, key: Callable[[Row], str], shown: Iterable[Any] | None = None
) -> dict[str, Any]:
    """The rows, or what is `shown` of them. `next` is the `after` of the next page, where there may be one."""
    more = {"next": key(rows[-1])} if len(rows) == limit else {}
    return {name: [row.model_dump() for row in rows] if shown is None else list(shown), **more}
