"""What a process does for the memory that it has freed."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Whole pages that were freed, to the system: glibc by itself gives back the end of a heap alone.

    That takes a millisecond, some more after much.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """None where there is another malloc."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
