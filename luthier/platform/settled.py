"""What replicas counted and settled, kept beside their spools: one side of the comparison with the ledger.

Files of one folder a base model: `began`, `<process>.settled` with totals, and spools, whose lines wait for the ledger.
A spool file is counted once, right before it is sent, by its process or an heir: `upto` says which files are in.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageRecord
from luthier.platform.whole_files import whole_lines, write_whole

log = logging.getLogger(__name__)

NAME = re.compile(r"(?P<process>\d+)(?:-(?P<number>\d+))?")
"""Of a spool file, without its suffix: the process that writes it, and which of its files it is."""


class Totals(Frozen):
    records: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    amount_ucr: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in Totals.model_fields})

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(**{name: getattr(self, name) - getattr(other, name) for name in Totals.model_fields})


class EngineCounts(Frozen):
    """Of one process since it started: vLLM's own counters, and what they are made of by our count."""

    prompt_tokens: int
    generation_tokens: int
    billed: Totals = Totals()
    elsewhere: Totals = Totals()
    """Billed by whoever asked: lines of batches."""
    unbilled: Totals = Totals()
    """Refused or failed before a bill."""
    probes: Totals = Totals()
    """Questions that prove an adapter; nobody pays for them."""
    repeated_prompt_tokens: int = 0
    """vLLM counts a prompt for each of its choices, the bill once."""
    abandoned_prompt_tokens: int = 0
    """Of clients that left: they are on the bill, and vLLM may not have read them."""
    num_open: int = 0
    """Sequences under way at that moment: vLLM has counted some of their tokens, we none."""

    @property
    def difference(self) -> tuple[int, int] | None:
        """Prompt and generation tokens that nothing explains; None while sequences are under way."""
        if self.num_open:
            return None
        told = self.billed + self.elsewhere + self.unbilled + self.probes
        most = told.prompt_tokens + self.repeated_prompt_tokens
        least = most - self.abandoned_prompt_tokens
        prompt = self.prompt_tokens - min(max(self.prompt_tokens, least), most)
        return prompt, self.generation_tokens - told.completion_tokens


class Settled(Frozen):
    """Of one process."""

    upto: int = -1
    """The number of the last file that is in."""
    totals: Totals = Totals()
    repeated: Totals = Totals()
    """Of these, answers to requests that the ledger bills to another answer."""
    repeated_upto: int = -1
    """The number of the last file whose repeats are in."""
    engine: EngineCounts | None = None


def owner(file: Path) -> tuple[int, int]:
    """The process that writes or wrote a spool file, and the file's number."""
    name = NAME.fullmatch(file.stem)
    assert name, f"{file} is no usage file"
    return int(name["process"]), int(name["number"] or 0)


def spool_files(folder: Path, kind: str = "jsonl") -> list[Path]:
    """In the order in which they are written. What is none of ours stays as it is."""
    found = list(folder.glob(f"*.{kind}"))
    for file in found:
        if not NAME.fullmatch(file.stem):
            log.warning("%s is no usage file: nothing in it is counted or sent", file)
    return sorted((file for file in found if NAME.fullmatch(file.stem)), key=owner)


def read_spool(file: Path) -> list[UsageRecord]:
    return [UsageRecord.model_validate_json(line) for line in whole_lines(file)]


class SettledFiles:
    """The totals in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> int:
        """Since when all is counted, in epoch milliseconds: from the first call on."""
        file = self._folder / "began"
        if not file.exists():
            write_whole(file, str(time.time_ns() // 1_000_000))
        return int(file.read_text())

    def of(self, process: int) -> Settled:
        with suppress(FileNotFoundError):
            return Settled.model_validate_json(self._file(process).read_text())
        return Settled()

    def count(self, file: Path, records: Iterable[UsageRecord], engine: EngineCounts | None = None) -> None:
        """Adds a spool file, unless it is in."""
        (process, number), began = owner(file), self.begin()
        settled = self.of(process)
        if number > settled.upto:
            totals = settled.totals + totals_of(record for record in records if record.time >= began)
            engine = engine or settled.engine
            self._write(process, settled.model_copy(update={"upto": number, "totals": totals, "engine": engine}))

    def repeat(self, file: Path, records: Iterable[UsageRecord]) -> None:
        """Those of a counted spool file that the ledger did not take, unless they are in."""
        (process, number), began = owner(file), self.begin()
        settled = self.of(process)
        if number > settled.repeated_upto:
            repeated = settled.repeated + totals_of(record for record in records if record.time >= began)
            self._write(process, settled.model_copy(update={"repeated": repeated, "repeated_upto": number}))

    def all(self) -> Iterator[tuple[int, Settled]]:
        """What is none of ours is passed over."""
        for file in sorted(self._folder.glob("*.settled")):
            if file.stem.isascii() and file.stem.isdigit():
                yield int(file.stem), self.of(int(file.stem))
            else:
                log.warning("%s is no file of totals: nothing in it is counted", file)

    def spools(self) -> Iterator[tuple[Path, list[UsageRecord]]]:
        """The files that wait, and their records."""
        for file in spool_files(self._folder):
            with suppress(FileNotFoundError):
                yield file, read_spool(file)

    def _write(self, process: int, settled: Settled) -> None:
        write_whole(self._file(process), settled.model_dump_json())

    def _file(self, process: int) -> Path:
        return self._folder / f"{process}.settled"


def totals_of(records: Iterable[UsageRecord]) -> Totals:
    counted = [(record.prompt_tokens, record.completion_tokens, record.amount_ucr) for record in records]
    prompt, completion, amount = (sum(column) for column in zip(*counted, strict=True)) if counted else (0, 0, 0)
    return Totals(records=len(counted), prompt_tokens=prompt, completion_tokens=completion, amount_ucr=amount)
