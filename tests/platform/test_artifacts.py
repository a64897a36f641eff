"""A folder gets its content's name, whole or not at all."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from luthier.platform.weights.artifacts import MANIFEST, content_of, fault_of, place
from tests.fakes import failing_reads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "part", b"weights")


def made(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "weights").write_bytes(weights)
    return folder


def test_the_name_is_the_content(folder: Path, tmp_path: Path) -> None:
    content = content_of(folder)
    assert content_of(folder) == content
    assert content_of(folder, base="other").sha256 != content.sha256
    assert content_of(made(tmp_path / "other", b"others")).sha256 != content.sha256
    final = place(folder, content, {"a": 1}, tmp_path / "published")
    assert final == tmp_path / "published" / content.sha256
    assert json.loads((final / MANIFEST).read_text()) == {"a": 1, "sha256": content.files}
    assert not folder.exists()


def test_what_is_there_stays(folder: Path, tmp_path: Path) -> None:
    content, published = content_of(folder), tmp_path / "published"
    first = place(folder, content, {"by": "first"}, published)
    again = place(made(tmp_path / "part", b"weights"), content, {"by": "second"}, published)
    assert first == again
    assert json.loads((first / MANIFEST).read_text())["by"] == "first"


def test_it_is_on_the_disk_before_it_has_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, synced = tmp_path / "published", []

    def noted(*paths: Path) -> None:
        synced.append((sorted(path.name for path in paths), len(list(published.iterdir()))))

    monkeypatch.setattr("luthier.platform.weights.artifacts.sync", noted)
    place(folder, content_of(folder), {}, published)
    assert synced == [(sorted([MANIFEST, "part", "weights"]), 0), (["published"], 1)]


@pytest.mark.parametrize("lost", ["weights", MANIFEST, "bytes"])
def test_what_is_there_and_damaged_is_replaced(folder: Path, tmp_path: Path, lost: str) -> None:
    content, published = content_of(folder), tmp_path / "published"
    final = place(folder, content, {}, published)
    if lost == "bytes":
        (final / "weights").write_bytes(b"weight")
    else:
        (final / lost).unlink()
    assert place(made(tmp_path / "part", b"weights"), content, {}, published) == final
    assert (final / "weights").read_bytes() == b"weights"
    assert (final / MANIFEST).is_file()
    assert list(published.iterdir()) == [final]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == []


def test_a_fault_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("luthier.platform.weights.artifacts.os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        place(folder, content_of(folder), {}, tmp_path / "published")


def test_what_is_missing_is_at_fault_while_its_storage_is_there(folder: Path, tmp_path: Path) -> None:
    final = place(folder, content_of(folder), {}, tmp_path / "published")
    assert fault_of(final) is None
    (final / "weights").unlink()
    assert "its weights is missing in storage" in str(fault_of(final))
    shutil.rmtree(final)
    assert f"its {MANIFEST} is missing in storage" in str(fault_of(final))
    shutil.rmtree(final.parent)
    with pytest.raises(FileNotFoundError):
        fault_of(final)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("name", ["weights", MANIFEST])
def test_what_storage_does_not_give_is_no_fault(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    final = place(folder, content_of(folder), {}, tmp_path / "published")
    failing_reads(monkeypatch, final / name, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        fault_of(final)
