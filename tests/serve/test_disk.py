"""Copies of adapters on a node's disk: whole, bounded, never taken from under who reads them, in any process."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import BinaryIO

import pytest

from luthier.platform.models import ModelVersion
from luthier.platform.storage import num_bytes
from luthier.platform.weights.artifacts import fault_of
from luthier.serve.adapters.disk import PART, LocalDisk
from tests.factories import make_version
from tests.waiting import SECONDS

READER = """
import sys
from pathlib import Path
from luthier.platform.models import ModelVersion
from luthier.serve.adapters.disk import LocalDisk
copy = LocalDisk(Path(sys.argv[1]), "tiny", 1 << 20).take(ModelVersion.model_validate_json(sys.argv[2]))
print(copy.was_there, flush=True)
sys.stdin.read()
"""


class Node:
    """A disk with room for three adapters, and their storage."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.folder = folder / "storage", folder / "disk"
        self.disk = LocalDisk(self.folder, "tiny", 3 * num_bytes(Path(self.version(0).path)))

    def version(self, number: int) -> ModelVersion:
        return make_version(number, self.storage, f"{number:04}" * 100)

    def read(self, version: ModelVersion, disk: LocalDisk | None = None) -> bool:
        """Whether it was there."""
        copy = (disk or self.disk).take(version)
        assert fault_of(copy.path) is None
        copy.close()
        return copy.was_there

    def kept(self) -> list[int]:
        return list(self.disk.copies())

    def parts(self) -> list[Path]:
        return list(self.folder.glob(f"*/*{PART}"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def far(node: Node, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Its storage is another file system."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    return node


def weights(folder: Path) -> Path:
    return folder / "weights"


def test_on_one_file_system_a_copy_is_the_same_files(node: Node) -> None:
    version = node.version(1)
    copy = node.disk.take(version)
    assert (copy.was_there, copy.path.name) == (False, f"{version.sha256}-1")
    assert weights(copy.path).samefile(weights(Path(version.path)))
    copy.close()
    assert node.read(version)


def test_another_file_systems_are_copied_and_do_without_it(far: Node) -> None:
    version = far.version(1)
    assert not far.read(version)
    shutil.rmtree(far.storage)
    assert far.read(version)
    copy = far.disk.take(version)
    assert not list(far.storage.glob("*"))
    assert weights(copy.path).read_text() == "0001" * 100
    copy.close()


def test_the_longest_unused_makes_room(node: Node) -> None:
    one, two, three, four, five = (node.version(number) for number in range(1, 6))
    for version in (one, two, three, one):
        node.read(version)
    assert node.kept() == [2, 3, 1]
    assert not node.read(four)
    assert node.kept() == [3, 1, 4]
    node.disk.used(three)
    assert not node.read(five)
    assert node.kept() == [4, 3, 5]
    assert sum(node.disk.copies().values()) == node.disk.size
    assert node.disk.evictions == 2


def test_what_is_read_stays(node: Node) -> None:
    versions = [node.version(number) for number in range(1, 5)]
    copies = [node.disk.take(version) for version in versions]
    assert [copy.path.parent.name for copy in copies] == ["tiny"] * 3 + ["storage"]
    assert node.kept() == [1, 2, 3]
    copies[1].close()
    node.read(versions[3])
    assert node.kept() == [1, 3, 4]


def test_a_reader_in_another_process_is_heeded_until_it_dies(node: Node) -> None:
    one, *others = (node.version(number) for number in range(1, 5))
    command = [sys.executable, "-c", READER, str(node.folder), one.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "False\n"
        for version in others:
            node.read(version)
        assert node.kept() == [1, 3, 4]
        reader.kill()
        reader.wait()
    node.read(others[0])
    assert node.kept() == [3, 4, 2]


def test_more_than_the_disk_holds_is_read_from_storage(node: Node) -> None:
    version = node.version(1)
    node.read(node.version(2))
    weights(Path(version.path)).write_text("x" * (node.disk.size + 1))
    assert node.disk.take(version).path == Path(version.path)
    assert node.kept() == [2]


def test_a_full_disk_is_done_without(far: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    version = far.version(1)
    assert far.disk.take(version).path == Path(version.path)
    assert (far.kept(), far.parts()) == ([], [])


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_not_what_it_should_be_goes_at_once(far: Node, is_lost: bool) -> None:
    version = far.version(1)
    far.read(version)
    copy, other = far.disk.take(version), far.disk.take(version)
    weights(copy.path).unlink() if is_lost else weights(copy.path).write_text("others")
    copy.discard()
    copy.close()
    assert not far.read(version)
    other.discard()
    other.close()
    assert far.read(version), "its place has been taken"
    assert far.parts() == []


def test_what_storage_has_no_more_goes_but_what_is_read(node: Node) -> None:
    one, two, three = (node.version(number) for number in (1, 2, 3))
    for version in (one, two, three):
        node.read(version)
    for version in (one, two):
        shutil.rmtree(version.path)
    copy = node.disk.take(two)
    node.disk.sweep(node.storage)
    assert node.kept() == [3, 2]
    copy.close()
    node.storage.rename(node.storage.with_name("away"))
    node.disk.sweep(node.storage)
    assert node.kept() == [3, 2]


def test_what_the_dead_left_half_made_goes_and_what_is_not_ours_stays(node: Node) -> None:
    version, strange = node.version(1), node.folder / "photos" / "summer"
    node.read(version)
    strange.mkdir(parents=True)
    (node.folder / "lost+found").mkdir(mode=0)
    (node.folder / "tiny" / f"{version.sha256}-1.{'0' * 32}{PART}").mkdir()
    node.disk.sweep(node.storage)
    assert (node.kept(), node.parts(), strange.is_dir()) == ([1], [], True)
    node.disk.size = 0
    assert node.disk.take(version).was_there
    assert strange.is_dir()


def test_base_models_share_the_size_and_see_their_own(node: Node) -> None:
    other = LocalDisk(node.folder, "other", node.disk.size)
    for number, disk in ((1, node.disk), (2, other), (3, node.disk), (4, other)):
        node.read(node.version(number), disk)
    assert (node.kept(), list(other.copies())) == ([3], [2, 4])


def test_many_readers_always_find_whole_copies(far: Node) -> None:
    """As many as there are replicas on a node: each with a view of its own, and room for a part of what they ask."""
    versions = [far.version(number) for number in range(1, 9)]

    def replica(seed: int) -> int:
        disk, random = LocalDisk(far.folder, "tiny", far.disk.size), Random(seed)
        return sum(far.read(random.choice(versions), disk) for _ in range(150))

    with ThreadPoolExecutor(4) as pool:
        found = sum(pool.map(replica, range(4)))
    assert 0 < found < 600
    assert far.parts() == []
    assert sum(far.disk.copies().values()) <= far.disk.size


def test_many_that_come_at_once_never_take_more_than_the_disk_may_hold(
    far: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that find room wait for each other: all are on their way at once."""
    copy, gate, at_once = shutil.copyfileobj, threading.Barrier(3, timeout=SECONDS), list[int]()

    def met(source: BinaryIO, to: BinaryIO, length: int) -> None:
        if to.name.endswith("weights"):
            gate.wait()
            at_once.append(num_bytes(far.folder))
        copy(source, to, length)

    monkeypatch.setattr(shutil, "copyfileobj", met)
    versions = [far.version(number) for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda version: far.disk.take(version).path.parent.name, versions))
    assert sorted(found) == ["storage"] * 5 + ["tiny"] * 3
    assert max(at_once) <= far.disk.size
    assert num_bytes(far.folder) == far.disk.size
