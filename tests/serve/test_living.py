"""Signs of the living in a folder: whole or not there, and nobody else's."""

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ClusterError
from luthier.serve.metering.living import PROCESS, live, lives
from tests.serve.spools import DEAD


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_what_the_dead_left_goes_and_nothing_else(tmp_path: Path) -> None:
    for name in (f"{DEAD}.alive", f"{DEAD}.new", "foo.alive", "foo.new"):
        (tmp_path / name).touch()
    live(tmp_path)
    assert lives(tmp_path, PROCESS)
    assert names(tmp_path) == sorted([f"{PROCESS}.alive", "foo.alive", "foo.new"])


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_sign_that_was_removed_is_made_again(tmp_path: Path, is_replaced: bool) -> None:
    live(tmp_path)
    sign = tmp_path / f"{PROCESS}.alive"
    sign.unlink()
    if is_replaced:
        sign.touch()
    assert not lives(tmp_path, PROCESS)
    live(tmp_path)
    assert lives(tmp_path, PROCESS)


def test_one_that_was_taken_for_dead_before_its_lock_signs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = fcntl.flock, list[Path]()

    def late(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX and not taken:
            taken.append(tmp_path / f"{PROCESS}.new")
            live(tmp_path, DEAD)  # another process
            assert not taken[0].exists()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    live(tmp_path)
    assert taken
    assert lives(tmp_path, PROCESS)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_file: Any, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(ClusterError, match=r"without locks \(No locks available\).*Set LUTHIER_HOME"):
        live(tmp_path)
