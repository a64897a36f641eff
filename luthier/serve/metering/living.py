"""Which of a folder's processes live, on whichever node: each holds a lock there, which ends with it.

Process ids are each node's own, and come again; a process is known by a number that it draws.
"""

import fcntl
import secrets
from io import FileIO
from pathlib import Path

PROCESS = secrets.randbelow(10**12)
"""This process, among those of all nodes and times."""
SIGN = ".alive"
_held: dict[Path, FileIO] = {}
"""Locked files, by their paths."""


def live(folder: Path, process: int = PROCESS) -> None:
    """From here on until its end a process lives there. What the dead left to say so goes."""
    sign = _sign(folder, process)
    if sign not in _held:
        new = sign.with_suffix(".new")
        file = FileIO(new, "xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(sign)  # only now, or others could find it without its lock
        _held[sign] = file
    for each in folder.glob(f"*{SIGN}"):
        if not lives(folder, int(each.stem)):
            each.unlink(missing_ok=True)


def lives(folder: Path, process: int) -> bool:
    try:
        with _sign(folder, process).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _sign(folder: Path, process: int) -> Path:
    return folder / f"{process}{SIGN}"
