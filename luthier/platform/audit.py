"""The audit: who did what to which object, from where, allowed or not. Rows in a chain of hashes an account. Pure.

A row's hash is the SHA-256 of the hash before it and of its own canonical JSON. So a row that was changed, taken out or
put in between breaks the chain there. A chain that was made anew as a whole, or that lost its end together with the
count of it, is in itself good: only who kept an anchor of before finds it out.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextvars import ContextVar

from pydantic import Field

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen

START = "0" * 64
MAX_TEXT = 1000
"""Letters of a reason or a name: both may come from outside."""


class Entry(Frozen):
    """One thing that was done or refused."""

    id: str
    """The request's: a second arrival changes nothing."""
    time: int
    """Epoch milliseconds."""
    account: str = ""
    """Empty: nobody knows whose."""
    user: str = ""
    role: str = ""
    key: str = ""
    action: str = Field(max_length=MAX_TEXT)
    object_kind: str = Field("", max_length=MAX_TEXT)
    object_name: str = Field("", max_length=MAX_TEXT)
    source: str = Field("", max_length=MAX_TEXT)
    """The address it came from."""
    is_allowed: bool
    """False: refused for who asked, or for what he may not see or has not."""
    status: int
    """HTTP's."""
    reason: str = Field("", max_length=MAX_TEXT)
    """Why it did not come about."""
    count: int = 1
    """Like ones that this row stands for."""


asked: ContextVar[Callable[[], Entry | None]] = ContextVar("asked", default=lambda: None)
"""What is being asked for just now, as the audit is to be told of it; None: nothing that changes anything."""


class AuditRow(Entry):
    """An entry in its account's chain."""

    number: int
    """From 1 on, without a gap."""
    hash: str


class Anchor(Frozen):
    """How far a chain goes: kept elsewhere, it shows later whether anything before it has changed."""

    count: int = Field(ge=0)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")

    def __str__(self) -> str:
        return f"{self.count}:{self.hash}"


class Verdict(Frozen):
    """What a walk along the chain found."""

    is_whole: bool
    anchor: Anchor
    """The end of what is good."""
    broken: int | None = None
    """The first row that is not as it was written."""
    reason: str = ""


def parse_anchor(text: str) -> Anchor:
    """COUNT:HASH."""
    count, _, found = text.partition(":")
    try:
        return Anchor(count=int(count), hash=found)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no anchor: it is COUNT:HASH, as `luthier audit verify` prints it.") from error


def hash_row(previous: str, number: int, entry: Entry) -> str:
    """The hash of an entry at a place in a chain."""
    told = {**entry.model_dump(include=set(Entry.model_fields)), "number": number}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{previous}{text}".encode()).hexdigest()


class Walk:
    """Along a chain from its start, page by page."""

    def __init__(self, anchor: Anchor | None) -> None:
        self._count, self._hash, self._anchor = 0, START, anchor
        self._broken: tuple[int, str] | None = None

    @property
    def is_over(self) -> bool:
        """A fault was found: what comes behind it says nothing."""
        return self._broken is not None

    def add(self, rows: Iterable[AuditRow]) -> None:
        for row in rows:
            if self._broken is None:
                self._step(row)

    def verdict(self, head: Anchor) -> Verdict:
        """`head` is what the store says the end is."""
        if self._broken is None and head != self._here:
            lost = head.count - self._count
            why = f"{lost} rows are missing at the end" if lost > 0 else "the end is not the one that was kept"
            self._broken = (self._count + 1 if lost > 0 else self._count, why)
        if self._broken is None and self._anchor and self._anchor.count > self._count:
            self._broken = (self._count + 1, f"the anchor has seen {self._anchor.count} rows")
        if self._broken:
            return Verdict(is_whole=False, anchor=self._here, broken=self._broken[0], reason=self._broken[1])
        return Verdict(is_whole=True, anchor=self._here)

    @property
    def _here(self) -> Anchor:
        return Anchor(count=self._count, hash=self._hash)

    def _step(self, row: AuditRow) -> None:
        if row.number != self._count + 1:
            self._broken = (self._count + 1, f"row {self._count + 1} is missing")
        elif row.hash != hash_row(self._hash, row.number, row):
            self._broken = (row.number, f"row {row.number}, or the one before it, is not as it was written")
        else:
            self._count, self._hash = row.number, row.hash
            if self._anchor and self._anchor.count == row.number and self._anchor.hash != row.hash:
                self._broken = (row.number, "the rows up to the anchor are others than it has seen")
