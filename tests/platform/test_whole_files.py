"""What is written whole or not at all."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from luthier.platform.whole_files import made_once, whole_lines, write_whole
from tests.full_disk import full_disk
from tests.waiting import SECONDS


def test_what_a_full_disk_does_not_take_leaves_nothing(tmp_path: Path) -> None:
    write_whole(tmp_path / "told", "a")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "told", "b")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("told", "a")]


def test_half_of_a_last_line_is_none(tmp_path: Path) -> None:
    file = tmp_path / "growing"
    file.write_bytes("a\n\n\u00e9\n".encode())
    assert list(whole_lines(file)) == [b"a\n", b"\n", "\u00e9\n".encode()]
    file.write_bytes("a\n\u00e9".encode()[:-1])
    assert list(whole_lines(file)) == [b"a\n"]


def test_a_secret_is_never_there_empty(tmp_path: Path) -> None:
    file = tmp_path / "home" / "key"
    with full_disk(), pytest.raises(OSError, match="File too large"):
        made_once(file, lambda: b"lost")
    assert not list(file.parent.iterdir())
    assert [made_once(file, lambda: b"first"), made_once(file, lambda: b"later")] == [b"first", b"first"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_who_makes_a_secret_at_the_same_time_gets_the_same(tmp_path: Path) -> None:
    both = Barrier(2, timeout=SECONDS)

    def make(secret: bytes) -> bytes:
        both.wait()
        return secret

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda secret: made_once(tmp_path / "key", lambda: make(secret)), (b"a", b"b")))
    assert made[0] == made[1]
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
