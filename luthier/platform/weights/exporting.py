"""What leaves with a version of a model: its adapter's files, or whole weights for Hugging Face; a card with each."""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from luthier.errors import NotFound
from luthier.platform.base_models import BaseModel
from luthier.platform.models import ModelVersion
from luthier.platform.options import Method
from luthier.platform.storage import SHA256_BYTES
from luthier.platform.weights.artifacts import MANIFEST, read_manifest
from luthier.platform.weights.merging import BLOCK_BYTES, Merging
from luthier.platform.weights.model_card import CARD, model_card

BESIDE = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""What a base model has beside its weights: settings, tokenizer, template, licence."""


class ExportFile(NamedTuple):
    name: str
    num_bytes: int
    read: Callable[[], Iterator[bytes]]


def export_files(version: ModelVersion, base: BaseModel, base_dir: Path, is_merged: bool) -> list[ExportFile]:
    """`is_merged` asks for whole weights: those of the base model with the adapter merged in."""
    folder = Path(version.path)
    if not folder.is_dir():
        raise NotFound(f"The files of version {version.version} of {version.model} are missing in storage.")
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    card = _text(CARD, model_card(version, base, manifest, is_merged))
    if not is_merged or version.method is Method.FULL:
        return [*_on_disk([file for file in sorted(folder.iterdir()) if file.name != CARD]), card]
    merging = Merging(base_dir, folder)
    beside = {file for pattern in BESIDE for file in base_dir.glob(pattern) if file.is_file() and file.name != MANIFEST}
    weights = [
        ExportFile(name, file.stat().st_size, partial(merging.read, name))
        for name, file in sorted(merging.files.items())
    ]
    told = {**manifest, "merged": True, "adapter_sha256": manifest.get("sha256", {}), "sha256": {}}
    return [*_on_disk(sorted(beside)), *weights, _text(MANIFEST, json.dumps(told, indent=2)), card]


def with_digest(file: ExportFile) -> ExportFile:
    """The same with its SHA-256 behind it: of merged weights nobody knows it before they are sent."""

    def read() -> Iterator[bytes]:
        digest = hashlib.sha256()
        for part in file.read():
            digest.update(part)
            yield part
        yield digest.digest()

    return file._replace(num_bytes=file.num_bytes + SHA256_BYTES, read=read)


def _on_disk(files: list[Path]) -> list[ExportFile]:
    return [ExportFile(file.name, file.stat().st_size, partial(_parts, file)) for file in files]


def _text(name: str, text: str) -> ExportFile:
    content = text.encode()
    return ExportFile(name, len(content), lambda: iter([content]))


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(BLOCK_BYTES):
            yield part
