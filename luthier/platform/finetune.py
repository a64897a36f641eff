"""The fine-tuning service that every dialect calls: CREATE, dry run, SHOW, DESCRIBE, CANCEL.

CREATE reads downward: name, base model, options -> rows -> report -> frozen snapshot -> registry.
"""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa

from luthier.errors import BadDataset, BaseModelRetired, InvalidInput, NotFound, Unavailable
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel, Catalog, base_model_dir, check_can_tune
from luthier.platform.continuing import check_fits, starting_point
from luthier.platform.data import datasets
from luthier.platform.data.datasets import Dataset
from luthier.platform.data.estimate import check_budget
from luthier.platform.data.judge import judge
from luthier.platform.data.prompts import load_prompts
from luthier.platform.data.recipe import Terms, lora_of
from luthier.platform.data.report import DataReport, Judged, clean_data
from luthier.platform.data.retuning import FrozenData, fitting, frozen_data
from luthier.platform.jobs import Job, new_job_id, now_ms
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions, Method, parse_options
from luthier.platform.prices import PriceList
from luthier.platform.privileges import Action
from luthier.platform.registry.jobs import MAX_SHOWN
from luthier.platform.registry.registry import Registry
from luthier.platform.retirement import left_to_tune
from luthier.platform.settings import Settings
from luthier.platform.sql.querying import open_engine
from luthier.platform.storage import Storage
from luthier.platform.versions import parse_model
from luthier.platform.weights.base_shapes import linear_modules
from luthier.platform.weights.lora import Modules, target_names
from luthier.platform.wire import CreateJob, RetuneModel

Rows = tuple[pa.Table, pa.Table | None]
"""Training and validation."""


class Finetune:
    def __init__(self, settings: Settings, catalog: Catalog, prices: PriceList, registry: Registry) -> None:
        self._settings, self._catalog, self._prices = settings, catalog, prices
        self._registry, self._models, self._jobs = registry, registry.models, registry.jobs
        self._storage = Storage(settings.storage)

    def create(self, caller: Caller, request: CreateJob, idempotency_key: str | None = None) -> Job:
        """Accepts a job, or raises with everything as it was before. A key that had its answer reads no data."""
        draft = self._draft(caller, request, parse_options(request.options))
        if first := self._jobs.precheck(draft, idempotency_key):
            return first
        start = self._start(caller, draft)
        judged = self._judge(draft, self._read(caller, draft))
        hashes = datasets.freeze(_trained_on(draft, judged), self._storage, draft.id)
        return self._submit(draft.model_copy(update={"start_path": start}), judged, hashes, idempotency_key)

    def retune(self, caller: Caller, request: RetuneModel, idempotency_key: str | None = None) -> Job:
        """Accepts a job that makes the model's next version, of the data that was frozen with the one there is."""
        draft, frozen = self._again(caller, request)
        if first := self._jobs.precheck(draft, idempotency_key):
            return first
        self._start(caller, draft)
        judged = self._judge(draft, frozen.read())
        hashes = frozen.freeze(_trained_on(draft, judged), self._storage, draft.id)
        return self._submit(draft, judged, hashes, idempotency_key)

    def dry_run(self, caller: Caller, request: CreateJob) -> DataReport:
        """What CREATE would train and cost, or the faults that it would refuse; starts nothing, keeps nothing."""
        draft = self._draft(caller, request, parse_options(request.options))
        return self._tried(caller, draft, lambda: self._read(caller, draft))

    def dry_retune(self, caller: Caller, request: RetuneModel) -> DataReport:
        """The same of `retune`."""
        draft, frozen = self._again(caller, request)
        return self._tried(caller, draft, frozen.read)

    def _tried(self, caller: Caller, draft: Job, read: Callable[[], Rows]) -> DataReport:
        self._jobs.precheck(draft)
        self._start(caller, draft)
        return self._judge(draft, read()).report

    def _submit(self, draft: Job, judged: Judged, hashes: dict[str, str], idempotency_key: str | None) -> Job:
        """The job whose data is frozen; without it, should the registry refuse it."""
        job = draft.model_copy(update={"report": {**judged.report.model_dump(mode="json"), **hashes}})
        try:
            accepted = self._jobs.submit(job, idempotency_key)
        except Unavailable:  # it may have been accepted all the same: its data stays
            raise
        except BaseException:
            shutil.rmtree(self._storage.job_dir(job.id))
            raise
        if accepted.id != job.id:
            shutil.rmtree(self._storage.job_dir(job.id))
        return accepted

    def show(self, caller: Caller, limit: int = MAX_SHOWN, before: str | None = None) -> list[Job]:
        return self._jobs.show(caller, limit, before)

    def describe(self, caller: Caller, job_id: str) -> Job:
        return self._jobs.get(caller, job_id)

    def cancel(self, caller: Caller, job_id: str) -> Job:
        return self._jobs.cancel(caller, job_id)

    def _again(self, caller: Caller, request: RetuneModel) -> tuple[Job, FrozenData]:
        """The job that makes a model again, and its data: whoever may change the model may use what it was made of."""
        asked = parse_model(request.model, self._settings.database, self._settings.schema_name)
        version = self._models.get(caller, *asked, to=Action.CHANGE_MODEL)
        frozen = frozen_data(version, self._jobs, self._storage)
        base = self._catalog.get(request.base_model)
        options = fitting(frozen.options, base, self._linear(base), request.promote)
        words = CreateJob(model=version.model, base_model=base.name, training_data=f"frozen data of {frozen.job_id}")
        return self._draft(caller, words, options), frozen

    def _draft(self, caller: Caller, request: CreateJob, options: FinetuneOptions) -> Job:
        """The job without its report: all that can be said before data is read."""
        name = parse_name(request.model, self._settings.database, self._settings.schema_name)
        base = self._catalog.get(request.base_model)
        self._check_base(base, options)
        _check_rank(options, base)
        return Job(
            id=new_job_id(),
            account=caller.account,
            owner=caller.user,
            role=caller.role,
            key=caller.key,
            model=name.display,
            base_model=base.name,
            training_data=request.training_data,
            validation_data=request.validation_data or "",
            options=options,
            report={},
            created_on=now_ms(),
        )

    def _check_base(self, base: BaseModel, options: FinetuneOptions) -> None:
        today, kind = datetime.now(UTC).date(), (options.task_type, options.method)
        try:
            check_can_tune(base, today, *kind)
        except BaseModelRetired as error:
            served = [self._catalog.get(name) for name in self._settings.serve_base_models]
            left = left_to_tune(served, today, *kind) or left_to_tune(self._catalog, today, *kind)
            raise BaseModelRetired(f"{error.message} Left to tune here: {', '.join(left) or 'none'}.") from error

    def _check_targets(self, options: FinetuneOptions, base: BaseModel) -> None:
        """They must be modules of the base model, as far as its weights are here."""
        if options.method is not Method.FULL and (linear := self._linear(base)):
            target_names(lora_of(base, options).targets, linear)

    def _judge(self, draft: Job, rows: Rows) -> Judged:
        base, options = self._catalog.get(draft.base_model), draft.options
        prompts = load_prompts(base_model_dir(self._settings, base))
        speeds = self._jobs.speeds(base.name, options.method)
        return judge(*rows, Terms(base, options, prompts, self._prices, speeds))

    def _read(self, caller: Caller, draft: Job) -> Rows:
        task, limit = draft.options.task_type, self._catalog.get(draft.base_model).rows_per_epoch
        queries = [query for query in (draft.training_data, draft.validation_data) if query.strip()]
        with open_engine(self._settings, self._registry, caller, *queries) as engine:
            training = engine.training_rows(draft.training_data, task, limit)
            if not draft.validation_data.strip():
                return training, None
            validation = engine.training_rows(draft.validation_data, task, limit, "validation")
        if validation.column_names != training.column_names:
            raise BadDataset(
                f"The training data has the columns {', '.join(training.column_names)}, the validation data "
                f"{', '.join(validation.column_names)}: give both the same."
            )
        return training, validation

    def _start(self, caller: Caller, draft: Job) -> str | None:
        """The weights that the run begins with; they and the targets must fit the base model and the method."""
        base, options = self._catalog.get(draft.base_model), draft.options
        self._check_targets(options, base)
        if options.continue_from is None:
            return None
        try:
            start = starting_point(caller, options, self._settings, self._models, self._jobs)
            check_fits(start, options, base, self._linear(base))
        except NotFound as error:
            raise NotFound(f"Option continue_from = {options.continue_from!r}: {error.message}") from error
        return str(start.path)

    def _linear(self, base: BaseModel) -> Modules:
        return linear_modules(base_model_dir(self._settings, base))


def _trained_on(draft: Job, judged: Judged) -> Dataset:
    """Data without faults, and a price within the job's own budget; or what is wrong with them."""
    data = clean_data(judged)
    check_budget(draft.options, judged.report.credits)
    return data


def _check_rank(options: FinetuneOptions, base: BaseModel) -> None:
    if options.method is not Method.FULL and options.lora_rank > base.max_rank:
        rank = options.lora_rank
        raise InvalidInput(f"Option lora_rank = {rank}: {base.name} can be served up to {base.max_rank}.")
