"""Published folders: named by the hash of what is in them, with a manifest, whole or not there."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from luthier.platform.frozen import Frozen
from luthier.platform.storage import file_sha256

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
    """Renames a folder to its name among the published ones, with its manifest; one that is there already stays."""
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": content.files}, indent=2))
    final = published / content.sha256
    published.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(folder, final)
    except OSError:
        if not final.is_dir():
            raise
    return final
