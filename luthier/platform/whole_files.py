"""What is there whole or not at all, whatever ends the process that writes it: small files, lines of growing ones."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(file: Path, text: str, mode: int = 0o666) -> None:
    """Under its name when it is whole, and not before; with this mode from the first byte on."""
    with _part(file, mode) as part:
        part.write_text(text)
        os.replace(part, file)


def made_once(file: Path, make: Callable[[], bytes]) -> bytes:
    """A secret of this machine, made when it is first needed. Readable by its owner alone."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with _part(file, 0o600) as part, suppress(FileExistsError):
            part.write_bytes(make())
            os.link(part, file)  # whoever comes first
    return file.read_bytes()


def whole_lines(file: Path) -> Iterator[bytes]:
    """With their ends: a process that dies while it writes leaves half of the last one, which is left out."""
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield line


@contextmanager
def _part(file: Path, mode: int) -> Iterator[Path]:
    """An empty file beside it, which is gone in the end."""
    part = file.with_suffix(f".{uuid.uuid4().hex}")
    try:
        part.touch(mode, exist_ok=False)
        yield part
    finally:
        part.unlink(missing_ok=True)
