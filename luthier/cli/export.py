"""A model's files on their way into a folder: fetched beside it, checked, renamed into place.

What is cut off goes on where it stood; nobody finds the folder with half of its files.
"""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.cli.remote import path_of
from luthier.errors import Conflict, Unavailable
from luthier.platform.storage import SHA256_BYTES, file_sha256
from luthier.platform.weights.artifacts import MANIFEST

if TYPE_CHECKING:
    from luthier.cli.client import Client

LISTING = "export.part.json"
"""Which export a half-fetched folder is of."""

OnBytes = Callable[[int, int], None]
"""Told of the bytes that are there, and of all."""


def export(
    client: "Client", name: str, folder: Path, merged: bool, force: bool, on_bytes: OnBytes | None = None
) -> list[Path]:
    """The files in the folder. Conflict when it has others in it, unless forced: then those stay."""
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise Conflict(f"The folder {folder} is not empty. Choose another, or write into it (--force).")
    query = f"?merged={str(merged).lower()}"
    listing = client.call("GET", path_of("models", name, "export") + query)
    part = _begun(folder, {**listing, "merged": merged})
    version = f"{listing['model']}@{listing['version']}"  # the name alone may mean another before the end
    total = sum(file["bytes"] for file in listing["files"])
    before = 0

    def tell(got: int, most: int) -> None:
        if on_bytes:
            on_bytes(before + min(got, most), total)

    for file in listing["files"]:
        target = part / file["name"]
        if not target.is_file():
            half = part / f"{file['name']}.download"
            path = path_of("models", version, "export", file["name"]) + f"{query}&digest=true"
            client.download(path, half, partial(tell, most=file["bytes"]))
            if not _is_whole(half):
                half.unlink()
                raise _differs(file["name"], "sent")
            os.replace(half, target)
        tell(file["bytes"], file["bytes"])
        before += file["bytes"]
    names = [file["name"] for file in listing["files"]]
    _check(part, names)
    return _moved(part, folder, names)


def _begun(folder: Path, listing: dict[str, Any]) -> Path:
    """The folder beside, empty or with files of the same export."""
    part = folder.with_name(f"{folder.name}.part")
    mark = part / LISTING
    text = json.dumps(listing, sort_keys=True)
    if not mark.is_file() or mark.read_text() != text:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        mark.write_text(text)
    return part


def _is_whole(half: Path) -> bool:
    """Whether the file is what the hash behind it says; that hash is taken off."""
    with half.open("r+b") as opened:
        end = opened.seek(-min(SHA256_BYTES, half.stat().st_size), os.SEEK_END)
        told = opened.read()
        opened.truncate(end)
    return file_sha256(half) == told.hex()


def _differs(name: str, verb: str) -> Unavailable:
    return Unavailable(f"{name} did not come as it was {verb}. Export again: the other files are kept.")


def _check(part: Path, names: list[str]) -> None:
    """Files are what the manifest says of them; what it does not know, it gets to know."""
    manifest_file = part / MANIFEST
    if not manifest_file.is_file():
        return
    manifest = json.loads(manifest_file.read_text())
    found = {name: file_sha256(part / name) for name in names if name != MANIFEST}
    if bad := next((name for name, told in manifest["sha256"].items() if found.get(name) != told), None):
        (part / bad).unlink(missing_ok=True)
        raise _differs(bad, "published")
    manifest_file.write_text(json.dumps({**manifest, "sha256": {**manifest["sha256"], **found}}, indent=2))


def _moved(part: Path, folder: Path, names: list[str]) -> list[Path]:
    (part / LISTING).unlink()
    if folder.is_dir() and any(folder.iterdir()):
        for name in names:
            os.replace(part / name, folder / name)
        part.rmdir()
    else:
        os.replace(part, folder)
    return [folder / name for name in names]
