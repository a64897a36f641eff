"""Which of a folder's processes live, on whichever node: each holds a lock there, which ends with it.

Process ids are each node's own, and come again; a process is known by a number that it draws.
"""

import fcntl
import os
import secrets
from contextlib import suppress
from io import FileIO
from pathlib import Path

from luthier.errors import ClusterError

PROCESS = secrets.randbelow(10**12)
"""This process, among those of all nodes and times."""
SIGN, NEW = ".alive", ".new"
_held: dict[Path, FileIO] = {}
"""Locked files, by their paths."""


def live(folder: Path, process: int = PROCESS) -> None:
    """From here on until its end a process lives there. What the dead left to say so goes."""
    sign = _sign(folder, process)
    while not _is_held(sign):
        _held[sign] = new = _locked(sign.with_suffix(NEW))
        with suppress(FileNotFoundError):  # before its lock another process may have taken it for a dead one's
            Path(new.name).rename(sign)  # only now, or others could find it without its lock
    for each in (*folder.glob(f"*{SIGN}"), *folder.glob(f"*{NEW}")):
        if each.stem.isdecimal() and not _is_locked(each):
            each.unlink(missing_ok=True)


def lives(folder: Path, process: int) -> bool:
    return _is_locked(_sign(folder, process))


def _is_held(sign: Path) -> bool:
    """Somebody may have removed it."""
    with suppress(FileNotFoundError):
        return sign in _held and os.path.samestat(sign.stat(), os.fstat(_held[sign].fileno()))
    return False


def _locked(new: Path) -> FileIO:
    file = FileIO(new, "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise ClusterError(
            f"{new.parent} is on a file system without locks ({error.strerror}): replicas that end there could not be "
            "told from those that live. Set LUTHIER_HOME to one that has them."
        ) from error
    return file


def _is_locked(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _sign(folder: Path, process: int) -> Path:
    return folder / f"{process}{SIGN}"
