"""The results of a batch on disk: a part file for each process that worked on it, put together at the end.

A result that stands here is never asked for again. Results are kept before they are billed
(serve/batches/batching.py).
"""

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from luthier.platform.batches import LineResult
from luthier.platform.storage import sync
from luthier.platform.whole_files import whole_lines


class Results:
    """Of one batch. Parts are read in the order of attempts, and the last holds.

    So what a process adds that lost the batch takes no other answer's place.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[int, tuple[Path, int]] = {}
        self._failed: set[int] = set()
        self._own = folder / f"{attempt:06}.jsonl"
        self._earlier = [part for part in sorted(folder.glob("*.jsonl")) if part != self._own]
        for part in self._earlier:
            for at, result in _results(part):
                self._note(result, part, at)
        self._file = self._own.open("ab")

    def __contains__(self, line: int) -> bool:
        return line in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_completed(self) -> int:
        return len(self._places) - len(self._failed)

    @property
    def num_failed(self) -> int:
        return len(self._failed)

    def found(self) -> Iterator[LineResult]:
        """What earlier processes left."""
        return (self._read(line) for line, (part, _) in sorted(self._places.items()) if part != self._own)

    def add(self, result: LineResult) -> None:
        self._note(result, self._own, self._file.tell())
        self._file.write(result.model_dump_json().encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Onto the disk itself; call it before a result is billed."""
        sync(self._own)

    def close(self) -> None:
        self._file.close()

    def write(self, file: Path, *, failed: bool, more: Iterable[str] = ()) -> int:
        """The answers, or what `failed`, in the order of the input, and `more`; how many. None make no file.

        It is written beside our own results: a process that lost the batch may still write, too, and the folder is
        removed with whatever one left that was killed.
        """
        lines = (line for line in sorted(self._places) if (line in self._failed) == failed)
        written = 0
        part = self._own.with_suffix(".part")
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="ascii") as out:
            for output in chain((self._read(line).output for line in lines), more):
                out.write(output + "\n")
                written += 1
        if written:
            sync(part)
            os.replace(part, file)
        else:
            part.unlink()
        return written

    def _note(self, result: LineResult, part: Path, at: int) -> None:
        self._places[result.line] = (part, at)
        (self._failed.discard if result.usage else self._failed.add)(result.line)

    def _read(self, line: int) -> LineResult:
        part, at = self._places[line]
        with part.open("rb") as file:
            file.seek(at)
            return LineResult.model_validate_json(file.readline())


def _results(part: Path) -> Iterator[tuple[int, LineResult]]:
    """Where each begins."""
    at = 0
    for line in whole_lines(part):
        yield at, LineResult.model_validate_json(line)
        at += len(line)
