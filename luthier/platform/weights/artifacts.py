"""Published folders: named by the hash of what is in them, with a manifest, whole or not there."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from luthier.errors import Conflict
from luthier.platform.frozen import Frozen
from luthier.platform.storage import file_sha256, sync

MANIFEST = "luthier.json"


class Content(Frozen):
    """What a folder holds before it has its manifest."""

    files: dict[str, str]
    """The hash of each."""
    sha256: str
    """The name of the published folder: its identity, never reused."""


def content_of(folder: Path, **beside: str) -> Content:
    """`beside` is what else makes it another than a folder of the same files."""
    files = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
    told = json.dumps({**files, **beside}, sort_keys=True)
    return Content(files=files, sha256=hashlib.sha256(told.encode()).hexdigest())


def place(folder: Path, content: Content, manifest: Mapping[str, object], published: Path) -> Path:
    """Renames a folder to its name among the published ones, with its manifest.

    One that is there already stays if it is whole, and makes way if not.
    """
    final = published / content.sha256
    with suppress(FileNotFoundError):
        os.utime(final)  # before it is looked at: no collector takes it from now on
    if _is_whole(final, content):
        return final
    published.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": content.files}, indent=2))
    sync(*folder.rglob("*"), folder)
    put_away(final, folder.with_suffix(".damaged"))
    try:
        os.replace(folder, final)
    except OSError:
        if not _is_whole(final, content):
            raise
    sync(published)
    return final


def copy_published(source: Path, published: Path) -> bool:
    """A published folder into another storage, under its name; False when it is there already, and whole.

    Conflict when it does not come as it was published.
    """
    final = published / source.name
    with suppress(FileNotFoundError):
        os.utime(final)  # before it is looked at: no collector takes it from now on
    if final.is_dir() and fault_of(final) is None:
        return False
    part = published / f"{source.name}.{uuid.uuid4().hex}.part"
    try:
        if source.is_dir():
            shutil.copytree(source, part)
        if fault := fault_of(part):
            raise Conflict(f"The files of the model are not what was published: {fault}.")
        os.utime(part)
        sync(*part.rglob("*"), part)
        put_away(final, part.with_suffix(".damaged"))
        os.replace(part, final)
        sync(published)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def manifest_if_readable(folder: Path) -> dict[str, Any]:
    """Empty where it is not."""
    with suppress(OSError, ValueError):
        return read_manifest(folder)
    return {}


def fault_of(folder: Path) -> str | None:
    """What is wrong with the files of a published folder; None: they are those that were published.

    OSError when its storage is away, or does not give them: that is no fault of theirs.
    """
    try:
        files: dict[str, str] = read_manifest(folder)["sha256"]
        other = next((name for name, sha256 in files.items() if file_sha256(folder / name) != sha256), None)
    except FileNotFoundError as error:
        if not folder.parent.is_dir():
            raise
        return f"its {Path(error.filename).name} is missing in storage ({folder.name[:12]})"
    except (ValueError, KeyError) as error:
        return f"its files cannot be read ({folder.name[:12]}: {error})"
    return other and f"its {other} is not what was published: damaged in storage ({folder.name[:12]})"


def _is_whole(folder: Path, content: Content) -> bool:
    """It has its manifest, and its files are those that were published."""
    files = {name: folder / name for name in (*content.files, MANIFEST)}
    if not all(file.is_file() for file in files.values()):
        return False
    return all(file_sha256(files[name]) == sha256 for name, sha256 in content.files.items())


def put_away(final: Path, aside: Path) -> None:
    """A rename first: nobody finds the name with half of its files."""
    with suppress(FileNotFoundError):
        os.replace(final, aside)
    shutil.rmtree(aside, ignore_errors=True)
