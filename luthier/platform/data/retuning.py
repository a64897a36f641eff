"""What a model was made of: the data that was frozen with its job, and the options as they fit another base model."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.errors import Conflict, InvalidInput, NotFound
from luthier.platform.base_models import BaseModel
from luthier.platform.data import datasets
from luthier.platform.data.datasets import Dataset
from luthier.platform.frozen import Frozen
from luthier.platform.models import ModelVersion
from luthier.platform.options import FinetuneOptions, Method
from luthier.platform.registry.jobs import Jobs
from luthier.platform.storage import Storage, file_sha256
from luthier.platform.weights.artifacts import read_manifest
from luthier.platform.weights.lora import Modules

PARTS = ("train", "validation")


class FrozenData(Frozen):
    """A job's snapshot, whole."""

    job_id: str
    folder: Path
    hashes: dict[str, str]
    """train_sha256, validation_sha256."""
    options: FinetuneOptions

    def read(self) -> tuple[pa.Table, pa.Table]:
        training, validation = (pq.read_table(self.folder / f"{part}.parquet") for part in PARTS)
        return training, validation

    def freeze(self, data: Dataset, storage: Storage, job_id: str) -> dict[str, str]:
        """The same files for another job, if it trains on all of the rows; else those that it does."""
        training, validation = self.read()
        if (data.training.num_rows, data.validation.num_rows) != (training.num_rows, validation.num_rows):
            return datasets.freeze(data, storage, job_id)
        shutil.copytree(self.folder, storage.job_dir(job_id))
        return self.hashes


def frozen_data(version: ModelVersion, jobs: Jobs, storage: Storage) -> FrozenData:
    """What a version was trained from, and how. InvalidInput for an import, NotFound where it is not in storage."""
    if version.job_id is None:
        raise InvalidInput(
            f"Version {version.version} of {version.model} was imported: what it was trained from is not here. Make a "
            f"new version of it by `luthier finetune create --new-version` or `luthier models import --new-version`."
        )
    folder = storage.job_dir(version.job_id)
    if missing := next((part for part in PARTS if not (folder / f"{part}.parquet").is_file()), None):
        raise NotFound(
            f"The {missing} data that version {version.version} of {version.model} was trained from (job "
            f"{version.job_id}) is not in storage here. Train it again where it was made, or from the data itself."
        )
    options, hashes = _made_with(version, version.job_id, jobs)
    if bad := next((part for part in PARTS if file_sha256(folder / f"{part}.parquet") != hashes[_hash(part)]), None):
        raise Conflict(f"The {bad} data of job {version.job_id} is not what was frozen: damaged in storage.")
    return FrozenData(job_id=version.job_id, folder=folder, hashes=hashes, options=options)


def fitting(options: FinetuneOptions, base: BaseModel, linear: Modules, promote: bool) -> FinetuneOptions:
    """The same, as far as the base model takes them, for the next version of a model that is there.

    What a rank or a length exceeds is lowered; targets that the base model has not are its own; weights of another
    base model are nothing to begin with; where the base model costs more than the job's budget, the run is shorter.
    `linear` is empty where it is not known.
    """
    fitted: dict[str, object] = {"continue_from": None, "new_version": True, "promote": promote}
    if options.budget_credits is not None:
        fitted["on_budget"] = "shorten"
    if options.method is not Method.FULL and options.lora_rank > base.max_rank:
        fitted["lora_rank"] = base.max_rank
        if options.lora_alpha:  # the scale stays
            fitted["lora_alpha"] = max(1, options.lora_alpha * base.max_rank // options.lora_rank)
    if options.context_length and options.context_length > base.max_context_length:
        fitted["context_length"] = base.max_context_length
    there = {name.rpartition(".")[2] for name in linear}
    if isinstance(options.lora_targets, tuple) and there and not set(options.lora_targets) <= there:
        fitted["lora_targets"] = None
    return options.model_copy(update=fitted)


def _made_with(version: ModelVersion, job_id: str, jobs: Jobs) -> tuple[FinetuneOptions, dict[str, str]]:
    """By the job, or by the manifest among the model's files where the job is kept no more."""
    try:
        job = jobs.run(job_id)
        options, told = job.options, job.report
    except NotFound:
        manifest = read_manifest(Path(version.path))
        options, told = FinetuneOptions.model_validate_json(json.dumps(manifest["options"])), manifest["data"]
    return options, {_hash(part): told[_hash(part)] for part in PARTS}


def _hash(part: str) -> str:
    return f"{part}_sha256"
