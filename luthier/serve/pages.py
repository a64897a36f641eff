"""Pages of a list, as the native API gives them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query

from luthier.platform.frozen import Frozen
from luthier.platform.registry.paging import MAX_SHOWN

Limit = Annotated[int, Query(ge=1, le=MAX_SHOWN)]
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


Rows = dict[str, list[dict[str, Any]]]
PageOf = Annotated[Page, Depends()]


def listed(name: str, rows: Iterable[Frozen]) -> Rows:
    """A list that is no longer than one answer."""
    return {name: [row.model_dump() for row in rows]}


def paged(
    name: str, rows: Sequence[Row], limit: int, key: Callable[[Row], str], shown: Iterable[Any] | None = None
) -> dict[str, Any]:
    """The rows, or what is `shown` of them. `next` is the `after` of the next page, where there may be one."""
    more = {"next": key(rows[-1])} if len(rows) == limit else {}
    return {name: [row.model_dump() for row in rows] if shown is None else list(shown), **more}
