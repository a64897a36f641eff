"""A CPU for each engine of one computing thread, but the first."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psutil
import pytest

from luthier.serve.engines.own_cpu import keep_cpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone binds threads")
CPUS = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
THREADS = "import threading; threading.Thread(target=input).start(); print(flush=True); threading.Event().wait()"


@pytest.fixture
def engine() -> Iterator[psutil.Process]:
    """A process with two threads."""
    with subprocess.Popen([sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as made:
        assert made.stdout
        made.stdout.readline()
        yield psutil.Process(made.pid)
        made.kill()


def test_each_engine_has_one_and_the_first_stays_free(engine: psutil.Process) -> None:
    name = uuid.uuid4().hex
    claims = [keep_cpu(engine, name) for _ in CPUS]
    assert [claim is not None for claim in claims] == [True] * (len(CPUS) - 1) + [False]
    last_taken = set(CPUS[1:2] or CPUS)
    threads = [os.sched_getaffinity(thread.id) for thread in engine.threads()]
    assert threads == [last_taken] * 2
    assert sorted(os.sched_getaffinity(0)) == CPUS
    for claim in claims:
        if claim:
            claim.close()


def test_an_engine_that_went_leaves_its_cpu(engine: psutil.Process) -> None:
    name = uuid.uuid4().hex
    for _ in range(2 * len(CPUS)):
        claim = keep_cpu(engine, name)
        assert (claim is not None) == (len(CPUS) > 1)
        if claim:
            claim.close()
