"""What the processes of a cluster are given."""

import subprocess
import sys

import pytest

from luthier.cli.ray_head import MARK, head_environment
from luthier.platform.settings import Settings

ARENAS = """
import ctypes, threading

libc, together = ctypes.CDLL(None), threading.Barrier(24)
libc.malloc.restype = ctypes.c_void_p

def take() -> None:
    libc.malloc(ctypes.c_size_t(5000))
    together.wait()

threads = [threading.Thread(target=take) for _ in range(together.parties)]
for each in threads:
    each.start()
for each in threads:
    each.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def num_arenas(environment: dict[str, str]) -> int:
    """Of a process with 24 threads that take memory at once."""
    command = [sys.executable, "-c", ARENAS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_threads_share_few_arenas(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    environment = head_environment(settings, "c1", {"OWN": "1"})
    assert num_arenas(environment) <= 2
    del environment["MALLOC_ARENA_MAX"]
    assert num_arenas(environment) > 4  # else the above tells nothing


def test_what_the_user_has_set_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    environment = head_environment(settings, "c1", {"OWN": "1"})
    assert (environment["MALLOC_ARENA_MAX"], environment["OWN"], environment[MARK]) == ("7", "1", "c1")
