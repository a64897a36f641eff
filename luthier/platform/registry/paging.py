"""Pages of a list: so many rows from behind the last that the reader has seen."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import sqlalchemy as sa

from luthier.errors import NotFound
from luthier.platform.frozen import Frozen
from luthier.platform.names import QualifiedName
from luthier.platform.store import Store, fetch

MAX_SHOWN = 1_000
"""Rows of one answer."""
Shown = TypeVar("Shown")
Part = tuple[sa.Select[Any], Callable[[dict[str, Any]], Shown]]
"""A list: its rows in their order, and what is made of each."""


class Page(Frozen):
    limit: int
    after: str | None = None
    """An id; None: from the start."""
    oldest_first: bool = False


class Named(Frozen):
    """Which names of a list are wanted: `of` is for the store to look for, `fits` is the rule.

    The store may find some more: of letters beyond ASCII it does not know both cases, and takes any for one.
    """

    like: str | None = None
    """% is any text, _ any letter, a backslash takes what follows as it is; in any case."""
    starts: str = ""
    within: tuple[str, ...] = ()
    """A database, or with it a schema."""
    since: str = ""
    """This one and those behind it, of a list in the order of names."""

    def of(self, name: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        its = [name >= self.since] if self.since else []
        if self.starts:
            is_short = len(self.starts) <= MAX_PATTERN
            its.append(name.startswith(self.starts, autoescape=True) if is_short else sa.false())
        if self.like is not None:
            its.append(name.ilike(_pattern(self.like), escape="\\"))
        return sa.and_(sa.true(), *its)

    def lies(self, table: sa.FromClause) -> sa.ColumnElement[bool]:
        """Whether a row's place is the one."""
        parts = zip((table.c.database, table.c.schema), self.within, strict=False)
        return sa.and_(sa.true(), *(part == its for part, its in parts))

    def fits(self, name: str, *place: str) -> bool:
        """LIKE takes any case, STARTS WITH does not."""
        is_like = self.like is None or self._exact.fullmatch(name) is not None
        return is_like and name.startswith(self.starts) and place[: len(self.within)] == self.within

    def fits_name(self, name: QualifiedName) -> bool:
        return self.fits(name.name, name.database, name.schema)

    @cached_property
    def _exact(self) -> "re.Pattern[str]":
        return _like(self.like or "")


ALL = Named()
MAX_PATTERN = 1_000
"""Letters; SQLite takes no more than 50,000, and no name is so long."""


def _pattern(like: str) -> str:
    parts = re.findall(r"\\.|.", like, re.DOTALL)
    return "".join(part if part in ("%", "_") else _letter(part[-1]) for part in parts)


def _letter(letter: str) -> str:
    return f"\\{letter}" if letter in "%_\\" else letter if letter.isascii() else "_"


def _like(written: str) -> "re.Pattern[str]":
    """% is any text, _ any letter, a backslash takes what follows as it is.

    What stands between two % is taken where it is found first, and stays (an atomic group).
    """
    pieces = [""]
    for part in re.findall(r"\\.|.", written, re.DOTALL):
        if part == "%":
            pieces.append("")
        else:
            pieces[-1] += "." if part == "_" else _in_any_case(part[-1])
    first, *later = pieces
    between = "".join(f"(?>.*?{piece})" for piece in later[:-1] if piece)
    last = "".join(f".*{piece}" for piece in later[-1:])
    return re.compile(first + between + last, re.IGNORECASE | re.DOTALL)


def _in_any_case(letter: str) -> str:
    """The store knows the two cases of an ASCII letter, and no third, as the Kelvin sign is a K elsewhere."""
    return f"(?a:{letter})" if letter.isascii() and letter.isalpha() else re.escape(letter)


def _any(_: object) -> bool:
    return True


def all_pages(
    show: Callable[[int, str | None], list[Shown]],
    key: Callable[[Shown], str],
    most: int = sys.maxsize,
    keep: Callable[[Shown], bool] = _any,
) -> list[Shown]:
    """One after the other, so that others are answered in between, until so many rows of those to keep are there."""
    rows: list[Shown] = []
    limit, after = min(most, MAX_SHOWN), None
    while len(rows) < most:
        page = show(limit, after)
        rows += filter(keep, page)
        if len(page) < limit:
            break
        after = key(page[-1])
    return rows[:most]


def all_behind(show: Callable[[int, int], Sequence[Shown]], most: int) -> list[Shown]:
    """The same of a list that passes over as many rows as were shown."""
    rows: list[Shown] = []
    while len(rows) < most:
        page = show(min(most - len(rows), MAX_SHOWN), len(rows))
        rows += page
        if len(page) < MAX_SHOWN:
            break
    return rows


def nothing_behind(id: str) -> NotFound:
    return NotFound(f"There is nothing {id!r} for the list to go on after.")


def named_page(query: sa.Select[Any], name: sa.ColumnElement[str], limit: int, after: str | None) -> sa.Select[Any]:
    """In the order of names."""
    behind = query if after is None else query.where(name > after)
    return behind.order_by(name).limit(min(limit, MAX_SHOWN))


def numbered_page(
    tx: sa.Connection,
    query: sa.Select[Any],
    order: sa.ColumnElement[int],
    id: sa.ColumnElement[str],
    limit: int,
    after: str | None,
) -> sa.Select[Any]:
    """Newest first, by a number that later rows have more of; rows with the same by their ids."""
    if after is not None:
        last = tx.execute(query.with_only_columns(order).where(id == after)).scalar()
        if last is None:
            raise nothing_behind(after)
        query = query.where(sa.or_(order < last, sa.and_(order == last, id > after)))
    return query.order_by(order.desc(), id).limit(min(limit, MAX_SHOWN))


def joined_page(tx: sa.Connection, parts: Sequence[Part[Shown]], limit: int, skip: int) -> list[Shown]:
    """Of lists one behind the other, so many rows behind as many as are skipped."""
    rows: list[Shown] = []
    for query, told in parts:
        left = min(limit, MAX_SHOWN) - len(rows)
        found = [told(row) for row in fetch(tx, query.offset(skip).limit(left))] if left else []
        if skip and not found:
            skip -= tx.execute(sa.select(sa.func.count()).select_from(query.order_by(None).subquery())).scalar_one()
        else:
            skip = 0
        rows += found
    return rows


def page_rows(
    store: Store, table: sa.Table, seen: sa.ColumnElement[bool], page: Page, *where: sa.ColumnElement[bool]
) -> list[dict[str, Any]]:
    """Of those that the caller sees, by the column `number`; one more than the limit if there are more."""
    columns = table.c
    if page.after is not None:
        last = store.rows(sa.select(columns.number).where(seen, columns.id == page.after))
        if not last:
            raise nothing_behind(page.after)
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
    return fetch(tx, query.order_by(*order).limit(limit))
