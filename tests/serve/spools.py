"""Spools of usage: their folder, and ledgers behind doors that a test opens and shuts."""

import queue
from pathlib import Path

from luthier.errors import Unavailable
from luthier.platform.metering import UsageRecord
from luthier.platform.registry.registry import Registry
from tests.factories import ledger_of

DEAD = 7
"""A process that nothing says is alive."""


class Door:
    """The ledger's append behind a door that a test opens and shuts; every try is put down."""

    def __init__(self, registry: Registry, is_open: bool = True) -> None:
        self._registry, self.is_open = registry, is_open
        self.tries: queue.Queue[list[str]] = queue.Queue()
        self.error: Exception = Unavailable("away")

    def append(self, records: list[UsageRecord]) -> int:
        try:
            if not self.is_open:
                raise self.error
            return self._registry.ledger.append(records)
        finally:
            self.tries.put([record.source_id for record in records])


def kept(registry: Registry) -> list[str]:
    return [record.source_id for record in ledger_of(registry)]


def lines(file: Path) -> list[str]:
    return [UsageRecord.model_validate_json(line).source_id for line in file.read_text().split("\n")[:-1]]


def leave_behind(folder: Path, name: int | str, *records: UsageRecord, torn: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(record.model_dump_json() + "\n" for record in records) + torn)
    return file


class Ledger:
    """Takes records while the disk is full."""

    def __init__(self) -> None:
        self.records: dict[str, UsageRecord] = {}
        self.is_away = False

    def append(self, records: list[UsageRecord]) -> int:
        if self.is_away:
            raise Unavailable("away")
        for record in records:
            assert self.records.setdefault(record.source_id, record) == record
        return len(records)
