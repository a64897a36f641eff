"""A `luthier up` that fails: one sentence, and nothing of it is left."""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from luthier.cli import cluster, ending
from luthier.cli.cluster_record import Cluster, begun, connected, is_gone, read_record, record_file, write_record
from luthier.cli.ending import end
from luthier.cli.failing import one_sentence, watched, whole_or_not_at_all
from luthier.cli.front import clear_away
from luthier.cli.ray_head import MARK, NUM_PORTS, start_ray
from luthier.cli.words import last_words
from luthier.errors import ClusterError, NotConnected, RayEnded
from luthier.platform.base_models import load_catalog
from luthier.platform.settings import Settings
from tests.waiting import wait_for

SERVE = """The deployment failed to start 3 times in a row. Error:
\x1b[36mray::ServeReplica:tiny:tiny.initialize()\x1b[39m
Traceback (most recent call last):
  File "replica.py", line 7, in initialize
luthier.errors.InvalidInput: tiny: no tokenizer in /models/tiny.
"""
LEFT = "what was started on Ray at x:1 may be left there"


def running(cluster_id: str) -> subprocess.Popen[bytes]:
    """A process of that cluster."""
    return subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, MARK: cluster_id}
    )


@pytest.fixture
def root() -> Iterator[subprocess.Popen[bytes]]:
    process = running("c1")
    yield process
    process.kill()
    process.wait()


def record(settings: Settings, root_pid: int | None) -> Cluster:
    made = Cluster(id="c1", address="x:1", root_pid=root_pid, url="http://x", dashboard=None, base_models=("tiny",))
    write_record(settings, made)
    return made


def log(settings: Settings, text: str) -> Path:
    file = settings.home / "logs" / "ray.log"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def quiet(_text: str) -> None:
    pass


@pytest.mark.parametrize("fault", [ClusterError("no room"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_what_was_started_ends(settings: Settings, root: subprocess.Popen[bytes], fault: BaseException) -> None:
    started = record(settings, root.pid)
    with pytest.raises(type(fault)) as raised, whole_or_not_at_all(settings, started, quiet):
        raise fault
    assert raised.value is fault
    assert not psutil.pid_exists(root.pid)
    assert read_record(settings) is None


def test_what_was_started_ends_though_its_record_cannot_be_read(
    settings: Settings, root: subprocess.Popen[bytes]
) -> None:
    started = record(settings, root.pid)
    record_file(settings).write_text("{")
    with pytest.raises(OSError, match="disk"), whole_or_not_at_all(settings, started, quiet):
        raise OSError("disk")
    assert not psutil.pid_exists(root.pid)


@pytest.mark.parametrize(
    ("fault", "is_looked_for"), [(OSError("disk"), True), (NotConnected("no answer"), False)], ids=repr
)
def test_a_ray_that_was_never_reached_has_nothing_of_ours(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, fault: BaseException, is_looked_for: bool
) -> None:
    joined, said = record(settings, None), list[str]()
    monkeypatch.setattr(ending, "connected", unreachable)
    with pytest.raises(type(fault)), whole_or_not_at_all(settings, joined, said.append):
        raise fault
    assert said == ["stopping what was started", *([f"{LEFT}. no answer"] if is_looked_for else [])]
    assert read_record(settings) == (joined if is_looked_for else None)


@pytest.mark.parametrize(
    ("script", "told", "is_kept"),
    [
        ("import sys; sys.stdin.read()", [], False),
        ("import sys; sys.stdin.read(); print('the doors may be left')", ["the doors may be left"], False),
        ("import sys; sys.stdin.read(); print('no answer'); sys.exit(1)", ["no answer"], True),
        ("import os; os.kill(os.getpid(), 9)", [LEFT], True),
        ("import time; time.sleep(600)", [LEFT], True),
    ],
    ids=["gone", "a part is left", "not reached", "killed", "hangs"],
)
def test_after_ctrl_c_a_process_of_its_own_takes_our_parts_off(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: list[str], is_kept: bool
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{script}"\n')
    python.chmod(0o700)
    joined, said = record(settings, None), list[str]()
    if "sleep" in script:
        monkeypatch.setattr(ending, "CONNECT_SECONDS", 0.2 - ending.LEAVE_SECONDS - ending.TELL_SECONDS)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(KeyboardInterrupt), whole_or_not_at_all(settings, joined, said.append):
        raise KeyboardInterrupt
    assert said == ["stopping what was started", *told]
    assert read_record(settings) == (joined if is_kept else None)


def unreachable(_cluster: Cluster) -> NoReturn:
    raise NotConnected("no answer")


def test_what_is_called_on_a_ray_that_we_joined_hears_of_ctrl_c(settings: Settings) -> None:
    """Signals reach no other thread: its driver would be in the way of the one that takes our parts off."""
    assert watched(record(settings, None), threading.get_ident) == threading.get_ident()


def test_who_is_interrupted_while_it_connects_lets_go_of_ray(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, is_interrupted, main = list[str](), threading.Event(), threading.get_ident()

    def init(*_: object, **__: object) -> None:
        wait_for(lambda: "result" in calls_of(main))
        signal.pthread_kill(main, signal.SIGINT)
        assert is_interrupted.wait(60)
        done.append("connected")

    def interrupt(*_: object) -> NoReturn:
        is_interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: done.append("let go"))
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), connected(record(settings, None)):
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["connected", "let go"]


INTERRUPTED = """
import atexit, sys
from luthier.cli import cluster, main

def interrupted(*_: object) -> None:
    raise KeyboardInterrupt

cluster.up, words = interrupted, sys.argv[1:]
if "as a driver" in words:
    sys.modules["ray"] = sys
    words.remove("as a driver")
atexit.register(print, "ended in order")
main.main(words)
"""


@pytest.mark.parametrize("words", [["up"], ["demo"], ["demo", "as a driver"]], ids=" ".join)
def test_ctrl_c_has_its_exit_status(settings: Settings, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *words],
        env={**os.environ, "LUTHIER_HOME": str(settings.home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
    assert ("ended in order" in done.stdout) == ("as a driver" not in words)


def calls_of(thread: int) -> list[str]:
    return [frame.f_code.co_name for frame, _line in traceback.walk_stack(sys._current_frames()[thread])]


def test_a_thread_that_exits_is_told_to_who_waits() -> None:
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        begun(lambda: sys.exit(3)).result(60)


def test_a_ray_that_cannot_be_looked_into_has_not_ended(
    settings: Settings, root: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = record(settings, root.pid)
    assert not is_gone(started)
    assert is_gone(record(settings, os.getpid())), "another's pid by now"

    def environ(_process: psutil.Process) -> NoReturn:
        raise psutil.AccessDenied(root.pid)

    monkeypatch.setattr(psutil.Process, "environ", environ)
    assert not is_gone(started)
    root.kill()
    os.waitid(os.P_PID, root.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(started), "nobody has taken its exit status"
    root.wait()
    assert is_gone(started)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's")
def test_a_full_disk_is_told_instead_of_what_it_hides(settings: Settings) -> None:
    kept = log(settings, "").with_name("up.log")
    kept.symlink_to("/dev/full")
    with pytest.raises(ClusterError) as raised, one_sentence(settings, "Luthier did not start"):
        raise RuntimeError(SERVE)
    told = f"tiny: no tokenizer in /models/tiny. {kept} cannot be written (No space left on device). If the machine"
    assert told in raised.value.message


def test_a_ray_that_was_not_there_yet_ends_too(settings: Settings, root: subprocess.Popen[bytes]) -> None:
    """As after a kill -9 of `up`, whose record the next one finds."""
    end(settings, record(settings, 0), quiet)
    assert not psutil.pid_exists(root.pid)
    assert read_record(settings) is None


def test_the_record_is_there_before_ray_is(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_settings: Settings, cluster_id: str, _environment: dict[str, str], _ports: range) -> int:
        known = read_record(settings)
        assert known
        assert (known.id, known.root_pid) == (cluster_id, 0)
        return 7

    monkeypatch.setattr(cluster, "start_ray", start)
    begun = cluster._begin(settings, load_catalog(settings), None, quiet, range(20000, 20499))
    clear_away(settings, begun.id)
    assert begun.root_pid == 7
    assert read_record(settings) == begun


def test_a_ray_that_ends_is_noticed_and_told(settings: Settings, root: subprocess.Popen[bytes]) -> None:
    started, hangs = record(settings, root.pid), threading.Event()
    file = log(
        settings, "INFO all is well\nSome Ray subprocesses exited unexpectedly:\n  raylet [exit code=-9]\nBye.\n"
    )
    root.kill()
    with pytest.raises(RayEnded) as raised, whole_or_not_at_all(settings, started, quiet):
        watched(started, hangs.wait)
    hangs.set()
    assert raised.value.message.startswith(f"Ray ended while Luthier started: raylet [exit code=-9]. {file} has more.")
    assert read_record(settings) is None


def test_what_a_call_gives_or_raises_is_its_own(settings: Settings, root: subprocess.Popen[bytes]) -> None:
    started = record(settings, root.pid)
    assert watched(started, lambda: "key") == "key"
    with pytest.raises(ZeroDivisionError):
        watched(started, lambda: str(1 / 0))


def test_what_others_raise_is_one_sentence_and_the_log_has_all(settings: Settings) -> None:
    with pytest.raises(ClusterError) as raised, one_sentence(settings, "Luthier did not start"):
        raise RuntimeError(SERVE)
    kept = settings.home / "logs" / "up.log"
    assert raised.value.message == (
        f"Luthier did not start: RuntimeError: tiny: no tokenizer in /models/tiny. {kept} has all that is known. "
        f"If the machine was too busy: run `luthier up` again."
    )
    assert "failed to start 3 times" in kept.read_text()
    assert "\x1b" not in kept.read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SERVE, "tiny: no tokenizer in /models/tiny"),
        ("HTTP proxies not available after 60s.", "HTTP proxies not available after 60s"),
        ("Exception: The node timed out.\nbye", "Exception: The node timed out"),
        ("", "no reason given"),
    ],
)
def test_last_words(text: str, words: str) -> None:
    assert last_words(text) == words


def test_a_ray_that_does_not_start_says_why(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = tmp_path / "ray"
    ray.write_text("#!/bin/sh\necho starting\necho 'ValueError: no room in /dev/shm.'\nexit 1\n")
    ray.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(ray))
    with pytest.raises(ClusterError) as raised:
        start_ray(settings, "c1", {}, range(20000, 20000 + NUM_PORTS))
    told = raised.value.message
    assert told.startswith(
        f"Ray did not start: ValueError: no room in /dev/shm. {settings.home / 'logs' / 'ray.log'} has"
    )
    assert "\n" not in told


def test_a_record_that_cannot_be_read_says_so(settings: Settings) -> None:
    record_file(settings).write_text('{"id": "c1"')
    with pytest.raises(ClusterError, match=r"cluster\.json, the record .* cannot be read\. Remove it"):
        read_record(settings)
