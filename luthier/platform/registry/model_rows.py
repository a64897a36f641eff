"""Rows of models and versions: found by name, added, and made nouns of. No verbs: those stand in models.py."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, LuthierError, ModelNotFound
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.jobs import ACTIVE, Job
from luthier.platform.models import Change, Model, ModelVersion
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.privileges import Action, Rights, missing
from luthier.platform.registry.grant_rows import GrantRows
from luthier.platform.registry.guard import Guard, in_schema, securable
from luthier.platform.registry.objects import NAME_PARTS, is_behind, is_named, name_parts, no_model, object_row
from luthier.platform.registry.paging import Named
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.registry.share_rows import ShareRows
from luthier.platform.registry.storage_rows import StorageRows
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.store import Row, Store, fetch, fetch_first
from luthier.platform.versions import Wanted

IMPORT = "import_"
"""Begins versions.job_id where no job made the version: the column must be unique and cannot be NULL."""


class ModelRows:
    def __init__(self, store: Store) -> None:
        self.store, self.guard, self.grants = store, Guard(store), GrantRows(store)
        self._places = PlaceRows(store)
        self.models, self.versions, self.aliases = (store.table(name) for name in ("models", "versions", "aliases"))
        self.shares, self._storage = ShareRows(store), StorageRows(store)
        self.changes, self.dropped, self.jobs = (store.table(name) for name in ("model_changes", "dropped", "jobs"))

    # finding

    def find(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> Row | None:
        return fetch_first(tx, sa.select(self.models).where(is_named(self.models, caller, name)))

    def get(self, tx: sa.Connection, caller: Caller, name: QualifiedName, to: Action) -> Row:
        """For the caller to do something to it. Of one that he may not see he is told as of one that is not there.

        It may be another account's: then it can be asked, and nothing else.
        """
        row = self._known(tx, caller, name)
        if row is None:
            raise self._not_there(tx, caller, name)
        hidden = lambda: self._not_there(tx, caller, name)  # noqa: E731
        about = securable(ObjectKind.MODEL, row)
        row["is_closed"] = _is_closed(self.guard.check(tx, caller, to, about, hidden), about)
        if to is Action.CHANGE_MODEL and row["replica_of"]:
            where = row["replica_of"]
            raise Conflict(f"Model {row['display']} is a replica: change it in region {where}, and replicate it again.")
        return row

    def seen(self, tx: sa.Connection, caller: Caller, rows: list[Row]) -> list[Row]:
        """Those of them that the caller may see."""
        rights, found = self.guard.rights_on(tx, caller, ObjectKind.MODEL, rows), []
        for row in rows:
            about = securable(ObjectKind.MODEL, row)
            if missing(Action.SEE_MODEL, rights, about) is None:
                found.append({**row, "is_closed": _is_closed(rights, about)})
        return found

    def is_seen(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> bool:
        """Whether there is a model of that name, as far as the caller may know."""
        row = self._known(tx, caller, name)
        if row is None:
            return False
        about = securable(ObjectKind.MODEL, row)
        return self.guard.rights(tx, caller, about).sees(about)

    def _known(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> Row | None:
        """Of the caller's account, or shared with it."""
        return self.find(tx, caller, name) or self.shares.find_model(tx, caller.account, name)

    def check_makes(self, tx: sa.Connection, caller: Caller, name: QualifiedName, by: Action, is_version: bool) -> None:
        """A model of that name, or the next version of one that is there, or being made: it must be the caller's."""
        self.guard.check(tx, caller, by, in_schema(name))
        self.shares.check_own(tx, caller.account, name.database)
        self._places.check_there(tx, caller.account, in_schema(name))
        row = self.find(tx, caller, name)
        if row and is_version:
            self.get(tx, caller, name, Action.CHANGE_MODEL)
            return
        job = self.maker(tx, caller, name) if is_version else None  # with no new version check_free says more of it
        if job:
            row = {**dict(zip(NAME_PARTS, name.parts, strict=True)), "role": job["role"]}
        if row and not self.may_change(tx, caller, row):
            raise _taken(name)

    def may_change(self, tx: sa.Connection, caller: Caller, model: Row) -> bool:
        return self.guard.may(tx, caller, Action.CHANGE_MODEL, securable(ObjectKind.MODEL, model))

    def _not_there(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> LuthierError:
        job = self.maker(tx, caller, name)
        if job is None or not self._sees(tx, caller, job):
            return no_model(name)
        return ModelNotFound(
            f"Model {name.display} is not ready: job {job['id']} is making it ({job['status']}). "
            f"`luthier finetune watch {job['id']}` follows it."
        )

    def _sees(self, tx: sa.Connection, caller: Caller, job: Row) -> bool:
        about = Securable(ObjectKind.JOB, name=job["id"], owner=job["role"], maker=job["owner"])
        return self.guard.may(tx, caller, Action.SEE_JOB, about)

    def maker(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> Row | None:
        """An active job that makes a model of that name."""
        columns = self.jobs.c
        active = sa.select(columns.id, columns.model, columns.status, columns.role, columns.owner).where(
            columns.account == caller.account, columns.model_name == name.dotted, columns.status.in_(ACTIVE)
        )
        rows = fetch(tx, active.add_columns(columns.created_on))  # to order few rows, SQLite reads many
        return min(rows, key=lambda row: (row["created_on"], row["id"]), default=None)

    def made_now(self, tx: sa.Connection, caller: Caller) -> Iterator[Securable]:
        """The models that active jobs of the account make."""
        columns = self.jobs.c
        active = sa.select(columns.model).where(columns.account == caller.account, columns.status.in_(ACTIVE))
        for name in tx.execute(active).scalars():
            yield Securable.named(ObjectKind.MODEL, parse_name(name, "", ""))

    def check_free(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> None:
        """Conflict when a model has the name, or a job is making one."""
        job = self.maker(tx, caller, name)
        if job and self._sees(tx, caller, job):
            raise Conflict(
                f"Job {job['id']} is making a model {job['model']} already. Choose another name, or cancel it."
            )
        if job or self.find(tx, caller, name):
            raise _taken(name)

    def versions_of(self, tx: sa.Connection, model: Row) -> list[ModelVersion]:
        """Oldest first."""
        columns = self.versions.c
        query = sa.select(self.versions).where(columns.model_id == model["id"]).order_by(columns.version)
        return [to_version(model, row) for row in fetch(tx, query)]

    def version(self, tx: sa.Connection, model: Row, wanted: Wanted) -> ModelVersion:
        """The one that is asked for, or else the default; ModelNotFound names those there are."""
        number = wanted if isinstance(wanted, int) else self._numbers(tx, model).get(wanted or "DEFAULT")
        found = self.numbered(tx, model, number)
        if found is None:
            if "imported_as" in model:
                raise ModelNotFound(f"Model {model['display']} has no version {wanted}.")
            there = [str(each.version) for each in self.versions_of(tx, model)] + list(self.aliases_of(tx, model))
            raise ModelNotFound(f"Model {model['display']} has no version {wanted}. It has {', '.join(there)}.")
        return found

    def numbered(self, tx: sa.Connection, model: Row, number: int | None) -> ModelVersion | None:
        columns = self.versions.c
        query = sa.select(self.versions).where(columns.model_id == model["id"], columns.version == number)
        row = fetch_first(tx, query)
        return to_version(model, dict(row)) if row else None

    def parent_of(self, tx: sa.Connection, job: Job) -> str | None:
        """The version that a job began with; of another job, or of what was dropped, the name that was given."""
        models, versions = self.models, self.versions
        joined = sa.join(models, versions, versions.c.model_id == models.c.id)
        same = sa.and_(models.c.account == job.account, versions.c.path == job.start_path)
        query = sa.select(models.c.display, versions.c.version).select_from(joined).where(same)
        row = tx.execute(query.order_by(versions.c.number)).first() if job.start_path else None
        return f"{row.display}@{row.version}" if row else job.options.continue_from

    def aliases_of(self, tx: sa.Connection, model: Row) -> dict[str, int]:
        columns = self.aliases.c
        query = sa.select(columns.alias, columns.version).where(columns.model_id == model["id"])
        return {row.alias: row.version for row in tx.execute(query.order_by(columns.alias))}

    def _numbers(self, tx: sa.Connection, model: Row) -> dict[str, int]:
        """Of every alias."""
        columns = self.versions.c
        ends = sa.select(sa.func.min(columns.version), sa.func.max(columns.version))
        first, last = tx.execute(ends.where(columns.model_id == model["id"])).one()
        return {**self.aliases_of(tx, model), "DEFAULT": model["default_version"], "FIRST": first, "LAST": last}

    def described(self, tx: sa.Connection, model: Row, wanted: Wanted = None) -> Model:
        """The model by the version that is asked for."""
        version = self.version(tx, model, wanted)
        count = sa.select(sa.func.count()).where(self.versions.c.model_id == model["id"])
        return _described(model, version, tx.execute(count).scalar_one(), self.aliases_of(tx, model))

    def all_described(self, tx: sa.Connection, models: list[Row]) -> list[Model]:
        """Each by its default version, with as many queries for all as for one."""
        versions, aliases, ids = self.versions.c, self.aliases.c, [model["id"] for model in models]
        counts = sa.select(versions.model_id, sa.func.count().label("num")).where(versions.model_id.in_(ids))
        count = {row.model_id: row.num for row in tx.execute(counts.group_by(versions.model_id))}
        meant: dict[int, dict[str, int]] = defaultdict(dict)
        named = sa.select(aliases.model_id, aliases.alias, aliases.version).where(aliases.model_id.in_(ids))
        for model_id, alias, number in tx.execute(named.order_by(aliases.alias)):
            meant[model_id][alias] = number
        joined = sa.join(self.versions, self.models, versions.model_id == self.models.c.id)
        defaults = sa.select(self.versions).select_from(joined).where(versions.model_id.in_(ids))
        by_default = defaults.where(versions.version == self.models.c.default_version)
        default = {row["model_id"]: row for row in fetch(tx, by_default)}
        return [
            _described(model, to_version(model, default[model["id"]]), count[model["id"]], meant[model["id"]])
            for model in models
        ]

    def candidates(
        self, tx: sa.Connection, caller: Caller, wanted: Named, after: QualifiedName | None, limit: int
    ) -> list[Row]:
        """Models of the account behind a name, in the order of names: those that the caller's roles own, or hold
        anything on. Each part is read by an index, so what others have costs nothing. Whether he may see them the
        guard says."""
        roles = self.guard.roles(tx, caller)
        if not roles:
            return []
        if ADMIN_ROLE in roles:
            query = sa.select(self.models).where(self.models.c.account == caller.account)
        else:
            names = sa.union(*(self._named(caller, role, wanted, after, limit) for role in sorted(roles))).subquery()
            first = sa.select(names).order_by(*names.c).limit(limit).subquery()
            same = [self.models.c[part] == first.c[part] for part in NAME_PARTS]
            joined = sa.join(first, self.models, sa.and_(self.models.c.account == caller.account, *same))
            query = sa.select(self.models).select_from(joined)
        parts = name_parts(self.models)
        query = query.where(is_behind(parts, after), wanted.of(self.models.c.name), wanted.lies(self.models))
        query = query.order_by(*parts).limit(limit)
        return fetch(tx, query)

    def shared(self, tx: sa.Connection, caller: Caller, after: QualifiedName | None) -> list[Row]:
        """Models of other accounts that this one reaches, behind a name, in the order of names."""
        rows = self.shares.models(tx, caller.account)
        behind = [row for row in rows if after is None or row["imported_as"].parts > after.parts]
        return sorted(behind, key=lambda row: row["imported_as"].parts)

    def _named(
        self, caller: Caller, role: str, wanted: Named, after: QualifiedName | None, limit: int
    ) -> sa.Select[Any]:
        """Names of models that a role owns, or holds something on."""
        grants = self.grants.grants
        is_on = (grants.c.grantee == role, grants.c.kind == ObjectKind.MODEL.value, ~grants.c.is_future)
        found = []
        for table, its in ((self.models, (self.models.c.role == role,)), (grants, is_on)):
            parts = name_parts(table)
            query = sa.select(*parts).where(table.c.account == caller.account, *its, is_behind(parts, after))
            query = query.where(wanted.of(table.c.name), wanted.lies(table))
            found.append(query.distinct().order_by(*parts).limit(limit).subquery())
        return sa.select(sa.union(*(sa.select(each) for each in found)).subquery())

    # changing

    def add(self, tx: sa.Connection, owner: Caller, name: QualifiedName, version: Row) -> tuple[Row, int]:
        """A version: the first of a new model, or the next of one that is there; the model and the number."""
        model = self.find(tx, owner, name)
        number = model["last_version"] + 1 if model else 1
        if model:
            self.update(tx, model, last_version=number)
        else:
            tx.execute(sa.insert(self.models).values(**object_row(owner, name, version["created_on"])))
            self.grants.begin(tx, owner, Securable.named(ObjectKind.MODEL, name), version["created_on"])
            model = self.find(tx, owner, name)
            assert model
        self.insert_version(tx, model, {"version": number, **version}, version["created_on"])
        return model, number

    def insert_version(self, tx: sa.Connection, model: Row, version: Row, now: int) -> None:
        """From now on its files are kept."""
        tx.execute(sa.insert(self.versions).values(model_id=model["id"], **version))
        self._storage.begin(tx, model["account"], version["sha256"], version["path"], now)

    def update(self, tx: sa.Connection, model: Row, **values: Any) -> None:
        tx.execute(sa.update(self.models).where(self.models.c.id == model["id"]).values(**values))

    def note(self, tx: sa.Connection, caller: Caller, model: Row, change: Change, **chain: int | None) -> int:
        """Keeps a change for as long as the database lives; its id. `chain` is what a rollback goes back by."""
        row = {**change.model_dump(exclude={"id"}), "account": caller.account, "model": name_of(model).dotted, **chain}
        inserted = tx.execute(sa.insert(self.changes).values(**row))
        assert inserted.inserted_primary_key is not None
        return int(inserted.inserted_primary_key[0])

    def note_all(self, tx: sa.Connection, caller: Caller, names: Iterable[QualifiedName], change: Change) -> None:
        shared = {**change.model_dump(exclude={"id"}), "account": caller.account}
        if rows := [{**shared, "model": name.dotted} for name in names]:
            tx.execute(sa.insert(self.changes), rows)

    def forget(self, tx: sa.Connection, account: str, which: sa.ColumnElement[bool], now: int) -> None:
        """Versions of an account; from now on their files wait to be collected."""
        versions, dropped = self.versions.c, self.dropped.c
        digests = sa.select(versions.sha256).where(which)
        self._storage.end(tx, account, sa.select(versions.number).where(which), digests, now)
        tx.execute(sa.delete(self.dropped).where(dropped.sha256.in_(digests)))
        fresh = digests.distinct().add_columns(sa.literal(now, dropped.time.type))
        tx.execute(sa.insert(self.dropped).from_select(["sha256", "time"], fresh))
        tx.execute(sa.delete(self.versions).where(which))


def _is_closed(rights: Rights, about: Securable) -> bool:
    return missing(Action.INSPECT_MODEL, rights, about) is not None


def _taken(name: QualifiedName) -> Conflict:
    return Conflict(
        f"Model {name.display} is there already. Choose another name, drop it (luthier models drop), or make "
        f"a new version of it (--new-version, option new_version)."
    )


def _described(model: Row, version: ModelVersion, num_versions: int, aliases: dict[str, int]) -> Model:
    if "imported_as" in model:  # what else its owner has is his affair
        told = {"default_version": model["default_version"], "versions": 1, "aliases": {}, "is_closed": True}
        return Model(**version.model_dump(), **told)
    return Model(
        **version.model_dump(),
        default_version=model["default_version"],
        versions=num_versions,
        aliases=aliases,
        canary_version=model["canary_version"],
        canary_share=model["canary_share"],
        replica_of=model["replica_of"],
        role=model["role"],
        is_closed=model.get("is_closed", False),
    )


def name_of(model: Row) -> QualifiedName:
    return QualifiedName(model["database"], model["schema"], model["name"], display=model["display"])


def to_version(model: Row, row: Row) -> ModelVersion:
    inherited = {"model": model["display"], "owner": model["owner"], "origin": model.get("origin")}
    own = {field: row[field] for field in ModelVersion.model_fields if field not in inherited}
    is_import = row["job_id"].startswith(IMPORT)
    return ModelVersion(**{**inherited, **own, "job_id": None if is_import else row["job_id"]})
