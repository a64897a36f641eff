"""The fine-tuning service that every dialect calls: CREATE, dry run, SHOW, DESCRIBE, CANCEL.

CREATE reads downward: name, base model, options -> rows -> report -> frozen snapshot -> registry.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from luthier.errors import InvalidInput
from luthier.platform import datasets
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel, Catalog, base_model_dir
from luthier.platform.datasets import DataReport, Dataset
from luthier.platform.jobs import FinetuneOptions, Job, new_job_id, now_ms, parse_options
from luthier.platform.models import TableInfo
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.prices import PriceList
from luthier.platform.prompts import load_prompts
from luthier.platform.registry.jobs import Jobs
from luthier.platform.registry.tables import Tables
from luthier.platform.settings import Settings
from luthier.platform.sql_engine import SqlEngine, TableFile
from luthier.platform.storage import Storage
from luthier.platform.wire import CreateJob


class Checked(CreateJob, arbitrary_types_allowed=True):
    """A CREATE whose parts are known to be good."""

    name: QualifiedName
    base: BaseModel
    parsed: FinetuneOptions
    data: Dataset
    judged: DataReport


class Finetune:
    def __init__(self, settings: Settings, catalog: Catalog, prices: PriceList, tables: Tables, jobs: Jobs) -> None:
        self._settings, self._catalog, self._prices = settings, catalog, prices
        self._tables, self._jobs = tables, jobs
        self._storage = Storage(settings.storage)

    def create(self, caller: Caller, request: CreateJob, idempotency_key: str | None = None) -> Job:
        """Accepts a job, or raises with everything as it was before."""
        checked = self._check(caller, request)
        job_id = new_job_id()
        hashes = datasets.freeze(checked.data, self._storage, job_id)
        job = Job(
            id=job_id,
            account=caller.account,
            owner=caller.user,
            role=caller.role,
            model=checked.name.display,
            base_model=checked.base.name,
            training_data=request.training_data,
            validation_data=request.validation_data or "",
            options=checked.parsed,
            report={**checked.judged.model_dump(), **hashes},
            created_on=now_ms(),
        )
        accepted = None
        try:
            accepted = self._jobs.submit(job, idempotency_key)
        finally:
            if accepted is None or accepted.id != job_id:
                shutil.rmtree(self._storage.job_dir(job_id))
        return accepted

    def dry_run(self, caller: Caller, request: CreateJob) -> DataReport:
        """What CREATE would train and cost; starts nothing, keeps nothing."""
        return self._check(caller, request).judged

    def show(self, caller: Caller) -> list[Job]:
        return self._jobs.show(caller)

    def describe(self, caller: Caller, job_id: str) -> Job:
        return self._jobs.get(caller, job_id)

    def cancel(self, caller: Caller, job_id: str) -> Job:
        return self._jobs.cancel(caller, job_id)

    def _check(self, caller: Caller, request: CreateJob) -> Checked:
        name = parse_name(request.model, self._settings.database, self._settings.schema_name)
        base = self._catalog.get(request.base_model)
        options = parse_options(request.options)
        if options.lora_rank > base.max_rank:
            raise InvalidInput(
                f"Option lora_rank = {options.lora_rank}: {base.name} can be served up to {base.max_rank}."
            )
        data = self._read(self._tables.show(caller), request, options.seed)
        prompts = load_prompts(base_model_dir(self._settings, base))
        judged = datasets.judge(data, base, options, prompts, self._prices)
        return Checked(**request.model_dump(), name=name, base=base, parsed=options, data=data, judged=judged)

    def _read(self, tables: Sequence[TableInfo], request: CreateJob, seed: int) -> Dataset:
        with open_engine(self._settings, tables) as engine:
            training = engine.training_rows(request.training_data).read_all()
            validation: pa.Table | None = None
            if request.validation_data and request.validation_data.strip():
                validation = engine.training_rows(request.validation_data).read_all()
        return datasets.split(training, validation, seed)


def open_engine(settings: Settings, tables: Sequence[TableInfo], **extras: Any) -> SqlEngine:
    """A locked SQL engine over an account's tables, in the default database and schema."""
    files = [TableFile(parse_name(table.name, "", ""), Path(table.path)) for table in tables]
    return SqlEngine(files, settings.database, settings.schema_name, **extras)
