"""Verbs on tuned models: show, make, drop. Which of its versions a model's name means: versions.py."""

import uuid
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from luthier.errors import Conflict, NotAllowed
from luthier.platform.access import Caller
from luthier.platform.jobs import FinishedModel, Job, now_ms
from luthier.platform.models import ImportedModel, Model
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import securable
from luthier.platform.registry.model_rows import IMPORT, ModelRows
from luthier.platform.registry.objects import name_parts, seen_rows
from luthier.platform.registry.paging import ALL, MAX_SHOWN, Named, all_pages
from luthier.platform.registry.versions import Versions
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.store import Row, Store
from luthier.platform.versions import Wanted


class Models:
    def __init__(self, store: Store, clock: Callable[[], int] = now_ms) -> None:
        self._store, self._clock = store, clock
        self._rows, self._versions = ModelRows(store), Versions(store, clock)

    def show(
        self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None, wanted: Named = ALL
    ) -> list[Model]:
        """Models that the caller may see, each by its default version: his account's by their folded names, then those
        that are shared with it."""
        limit, behind = min(limit, MAX_SHOWN), parse_name(after, "", "") if after is not None else None
        with self._store.reading() as tx:
            if behind and self._rows.shares.is_imported(tx, caller.account, behind.database):
                seen: list[Row] = []
            else:
                read, visible = partial(self._rows.candidates, tx, caller, wanted), partial(self._rows.seen, tx, caller)
                seen, behind = seen_rows(read, visible, behind, limit), None
            if len(seen) < limit:
                seen += self._rows.seen(tx, caller, self._rows.shared(tx, caller, behind))
            return self._rows.all_described(tx, seen[:limit])

    def get(self, caller: Caller, name: QualifiedName, version: Wanted = None, to: Action = Action.SEE_MODEL) -> Model:
        """A model by its default version, or by the one that is asked for; for the caller `to` do something with it."""
        with self._store.reading() as tx:
            return self._rows.described(tx, self._rows.get(tx, caller, name, to), version)

    def drop(self, caller: Caller, name: QualifiedName, version: Wanted = None) -> Model:
        """Forgets the model, or one version of it: it stops answering. Its files wait to be collected."""
        with self._rows.guard.change(caller) as tx:
            model = self._rows.get(tx, caller, name, Action.DROP_MODEL)
            gone = self._rows.described(tx, model, version)
            if version is None:
                self._rows.grants.end(tx, caller.account, securable(ObjectKind.MODEL, model))
                self.remove(tx, caller, self._rows.models.c.id == model["id"])
            else:
                _check_unused(gone)
                self._rows.forget(tx, caller.account, self._rows.versions.c.number == gone.number, self._clock())
                self._versions.note(tx, caller, model, "DROP_VERSION", gone.version)
        return gone

    def are_made_in(self, tx: sa.Connection, caller: Caller, place: Securable) -> bool:
        """Whether a job makes one there."""
        return any(place in (name.in_schema, name.in_database) for name in self._rows.made_now(tx, caller))

    def remove(self, tx: sa.Connection, caller: Caller, which: sa.ColumnElement[bool]) -> None:
        """Whoever asks, and what is granted on them: that is decided by then. As many statements for all as for one."""
        models, versions = self._rows.models, self._rows.versions.c
        names = [QualifiedName(*row) for row in tx.execute(sa.select(*name_parts(models)).where(which))]
        is_theirs = versions.model_id.in_(sa.select(models.c.id).where(which))
        self._rows.forget(tx, caller.account, is_theirs, self._clock())
        tx.execute(sa.delete(models).where(which))
        self._versions.note_dropped(tx, caller, names)

    def precheck_import(self, caller: Caller, name: QualifiedName, new_version: bool = False) -> None:
        """Conflict when the name is taken, but by an import: the next may be the same again."""
        with self._store.reading() as tx:
            self._rows.check_makes(tx, caller, name, Action.CREATE_MODEL, new_version)
            if not new_version and not any(self._imports(tx, caller, name)):
                self._rows.check_free(tx, caller, name)

    def find_import(
        self, caller: Caller, name: QualifiedName, made: ImportedModel, new_version: bool = False
    ) -> Model | None:
        """What `import_model` answered to the same before, or None; Conflict when the name is taken."""
        with self._store.reading() as tx:
            self._rows.check_makes(tx, caller, name, Action.CREATE_MODEL, new_version)
            return self._imported_before(tx, caller, name, made, new_version)

    def import_model(
        self,
        caller: Caller,
        name: QualifiedName,
        made: ImportedModel,
        new_version: bool = False,
        promote: bool = False,
    ) -> Model:
        """Adds a version, whose folder is in place, to a new model or to one that is there.

        The same again gives the first answer.
        """
        with self._rows.guard.change(caller) as tx:
            self._rows.check_makes(tx, caller, name, Action.CREATE_MODEL, new_version)
            first = self._imported_before(tx, caller, name, made, new_version)
            if first is None:
                row = {**made.model_dump(mode="json"), "job_id": f"{IMPORT}{uuid.uuid4().hex}"}
                number = self._add(tx, caller, name, row, promote)
            elif promote:
                model = self._rows.get(tx, caller, name, Action.CHANGE_MODEL)
                self._versions.promote_in(tx, caller, model, first.version)
        return self.get(caller, name, first.version if first else number)

    def check_tunes(self, tx: sa.Connection, caller: Caller, name: QualifiedName, new_version: bool) -> None:
        """What a job asks for: the right to make the model, and its name, or the model itself."""
        self._rows.check_makes(tx, caller, name, Action.FINETUNE, new_version)
        if not new_version:
            self._rows.check_free(tx, caller, name)

    def publish(self, tx: sa.Connection, job: Job, name: QualifiedName, made: FinishedModel, now: int) -> int:
        """Adds the version that a job made, inside the transaction that ends it; its number.

        NotAllowed where the model has passed to others meanwhile: they would be handed its weights, and asked by them.
        """
        owner = Caller(account=job.account, user=job.owner, role=job.role)
        model = self._rows.find(tx, owner, name)
        if model and not self._rows.may_change(tx, owner, model):
            raise NotAllowed(
                f"Model {name.display} has no version of job {job.id}: role {job.role} may not change it any more. "
                f"Make another model from the job's last checkpoint: continue_from = {job.id}."
            )
        row = {
            "job_id": job.id,
            "base_model": job.base_model,
            "path": made.path,
            "sha256": made.sha256,
            "rank": made.rank,
            "method": made.method.value,
            "task_type": made.task_type.value,
            "parent": self._rows.parent_of(tx, job),
            "created_on": now,
        }
        return self._add(tx, owner, name, row, job.options.promote)

    def _add(self, tx: sa.Connection, owner: Caller, name: QualifiedName, version: Row, promote: bool) -> int:
        model, number = self._rows.add(tx, owner, name, version)
        self._versions.note(tx, owner, model, "CREATE_VERSION", number)
        if promote:
            self._versions.promote_in(tx, owner, model, number)
        return number

    def _imported_before(
        self, tx: sa.Connection, caller: Caller, name: QualifiedName, made: ImportedModel, new_version: bool
    ) -> Model | None:
        same = (made.base_model, made.sha256, made.task_type)
        for each in self._imports(tx, caller, name):
            if (each.base_model, each.sha256, each.task_type) == same:
                return each
        if not new_version:
            self._rows.check_free(tx, caller, name)
        return None

    def _imports(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> list[Model]:
        """The versions of the model of that name, if there is one, that were imported."""
        model = self._rows.find(tx, caller, name)
        numbers = [each.version for each in self._rows.versions_of(tx, model) if each.job_id is None] if model else []
        return [self._rows.described(tx, model, number) for number in numbers if model]


def all_models(models: Models, caller: Caller, most: int, wanted: Named = ALL) -> list[Model]:
    """At most so many."""
    show = partial(models.show, caller, wanted=wanted)
    return all_pages(show, lambda each: each.model, most, lambda each: wanted.fits_name(parse_name(each.model, "", "")))


def _check_unused(version: Model) -> None:
    number = version.version
    aliases = [alias for alias, meant in version.aliases.items() if meant == number]
    if number in (version.default_version, version.canary_version) or aliases:
        means = f"the alias {aliases[0]} means it" if aliases else "it answers requests"
        raise Conflict(f"Version {number} of {version.model} cannot be dropped: {means}. Promote another first.")
