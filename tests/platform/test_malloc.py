"""Freed memory goes back to the system."""

import ctypes
import re
import sys
from pathlib import Path

import pytest

from luthier.platform.sql.sql_engine import SqlEngine

CHUNK, NUM_CHUNKS = 4000, 6_000


def own_mib() -> float:
    """Of this process, without pages of files."""
    (kib,) = re.findall(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return int(kib) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_statement_leaves_no_freed_memory_behind() -> None:
    libc, first, engine = ctypes.CDLL(None), SqlEngine([], "DB", "SC"), SqlEngine([], "DB", "SC")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    chunks = [libc.malloc(CHUNK) for _ in range(NUM_CHUNKS)]
    for each in chunks:
        ctypes.memset(each, 1, CHUNK)
    kept = chunks[::8]
    first.close()  # DuckDB itself gives memory back ten times a second at most
    for each in sorted({*chunks} - {*kept}):
        libc.free(each)
    before = own_mib()
    engine.close()
    assert own_mib() < before - CHUNK * NUM_CHUNKS / 2**21
    for each in kept:
        libc.free(each)
