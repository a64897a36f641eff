"""Verbs on tuned models and their versions."""

import uuid
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, ModelNotFound
from luthier.platform.access import Caller
from luthier.platform.jobs import ACTIVE, FinishedModel, Job
from luthier.platform.models import ImportedModel, ModelVersion
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.registry.objects import is_named, object_row
from luthier.platform.store import Store

IMPORT = "import_"
"""Begins versions.job_id where no job made the version: the column must be unique and cannot be NULL."""


class Models:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._models = store.table("models")
        self._versions = store.table("versions")
        self._jobs = store.table("jobs")

    def show(self, caller: Caller) -> list[ModelVersion]:
        """The newest version of each model."""
        return [_to_version(row) for row in self._store.rows(self._newest(self._models.c.account == caller.account))]

    def get(self, caller: Caller, name: QualifiedName) -> ModelVersion:
        """The newest version of a model."""
        found = self._store.rows(self._newest(is_named(self._models, caller, name)))
        if not found:
            raise self._missing(caller, name)
        return _to_version(found[0])

    def drop(self, caller: Caller, name: QualifiedName) -> ModelVersion:
        """Forgets the model: it stops answering. Its artifacts stay in storage until they are collected."""
        version = self.get(caller, name)
        with self._store.transaction() as tx:
            tx.execute(sa.delete(self._models).where(is_named(self._models, caller, name)))
        return version

    def precheck_import(self, caller: Caller, name: QualifiedName) -> None:
        """Conflict when the name is taken, but by an import: the next may be the same again."""
        with self._store.reading() as tx:
            if self._import_of(tx, caller, name) is None:
                self.check_free(tx, caller, name)

    def find_import(self, caller: Caller, name: QualifiedName, made: ImportedModel) -> ModelVersion | None:
        """What `import_model` answered to the same before, or None; Conflict when the name is taken."""
        with self._store.reading() as tx:
            return self._imported_before(tx, caller, name, made)

    def import_model(self, caller: Caller, name: QualifiedName, made: ImportedModel) -> ModelVersion:
        """Adds a model with its first version, whose folder is in place. The same again gives the first answer."""
        with self._store.transaction() as tx:
            if first := self._imported_before(tx, caller, name, made):
                return first
            row = {**made.model_dump(mode="json"), "job_id": f"{IMPORT}{uuid.uuid4().hex}"}
            self._insert(tx, caller, name, row)
        return self.get(caller, name)

    def check_free(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> None:
        """Conflict when a model has the name, or a job is making one."""
        columns = self._jobs.c
        rivals = sa.select(columns.id, columns.model).where(
            columns.account == caller.account, columns.status.in_(ACTIVE)
        )
        for rival_id, rival in tx.execute(rivals):
            if parse_name(rival, "", "") == name:
                raise Conflict(f"Job {rival_id} is making a model {rival} already. Choose another name, or cancel it.")
        query = sa.select(self._models.c.id).where(is_named(self._models, caller, name))
        if tx.execute(query).first() is not None:
            raise Conflict(
                f"Model {name.display} is there already. Choose another name, or drop it (luthier models drop)."
            )

    def publish(self, tx: sa.Connection, job: Job, name: QualifiedName, made: FinishedModel, now: int) -> None:
        """Adds the model with its first version, inside the transaction that ends the job."""
        owner = Caller(account=job.account, user=job.owner, role=job.role)
        row = {
            "job_id": job.id,
            "base_model": job.base_model,
            "path": made.path,
            "sha256": made.sha256,
            "rank": made.rank,
            "method": made.method.value,
            "task_type": made.task_type.value,
            "parent": job.options.continue_from,
            "created_on": now,
        }
        self._insert(tx, owner, name, row)

    def _insert(self, tx: sa.Connection, owner: Caller, name: QualifiedName, version: dict[str, Any]) -> None:
        """A model and its first version."""
        inserted = tx.execute(sa.insert(self._models).values(**object_row(owner, name, version["created_on"])))
        assert inserted.inserted_primary_key is not None
        model_id = inserted.inserted_primary_key[0]
        tx.execute(sa.insert(self._versions).values(model_id=model_id, version=1, **version))

    def _imported_before(
        self, tx: sa.Connection, caller: Caller, name: QualifiedName, made: ImportedModel
    ) -> ModelVersion | None:
        first = self._import_of(tx, caller, name)
        if first and (first.sha256, first.task_type) == (made.sha256, made.task_type):
            return first
        self.check_free(tx, caller, name)
        return None

    def _import_of(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> ModelVersion | None:
        """The model of that name, if it was imported."""
        row = tx.execute(self._newest(is_named(self._models, caller, name))).mappings().first()
        found = _to_version(dict(row)) if row else None
        return found if found and found.job_id is None else None

    def _missing(self, caller: Caller, name: QualifiedName) -> ModelNotFound:
        columns = self._jobs.c
        active = sa.select(columns.id, columns.model, columns.status).where(
            columns.account == caller.account, columns.status.in_(ACTIVE)
        )
        for job in self._store.rows(active):
            if parse_name(job["model"], "", "") == name:
                return ModelNotFound(
                    f"Model {name.display} is not ready: job {job['id']} is making it ({job['status']}). "
                    f"`luthier finetune watch {job['id']}` follows it."
                )
        return ModelNotFound(f"No model {name.display}. `luthier models list` shows those there are.")

    def _newest(self, where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        versions, models = self._versions, self._models
        others = versions.alias()
        newest = sa.select(sa.func.max(others.c.version)).where(others.c.model_id == models.c.id).scalar_subquery()
        joined = sa.join(models, versions, versions.c.model_id == models.c.id)
        columns = [*versions.c, models.c.display, models.c.owner]
        return (
            sa.select(*columns)
            .select_from(joined)
            .where(where, versions.c.version == newest)
            .order_by(models.c.display)
        )


def _to_version(row: dict[str, Any]) -> ModelVersion:
    own = {field: row[field] for field in ModelVersion.model_fields if field != "model"}
    is_import = row["job_id"].startswith(IMPORT)
    return ModelVersion(model=row["display"], **{**own, "job_id": None if is_import else row["job_id"]})
