"""A folder gets its content's name, whole or not at all."""

import json
from pathlib import Path

import pytest

from luthier.platform.artifacts import MANIFEST, content_of, place


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

    monkeypatch.setattr("luthier.platform.artifacts.sync", noted)
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

    monkeypatch.setattr("luthier.platform.artifacts.os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        place(folder, content_of(folder), {}, tmp_path / "published")
