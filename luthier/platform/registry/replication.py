"""Verbs on replicas: what a model is in its own region; and what a region has, for whoever replicates to it.

The rows in the other region are written by ReplicaRows, over that region's store.
"""

import sqlalchemy as sa

from luthier.errors import Conflict, NotAllowed, NotFound
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.base_models import BaseModel, Catalog
from luthier.platform.models import Change, ModelVersion
from luthier.platform.names import QualifiedName
from luthier.platform.options import Method
from luthier.platform.privileges import Action
from luthier.platform.registry.access import Access
from luthier.platform.registry.guard import in_schema, securable
from luthier.platform.registry.model_rows import IMPORT, ModelRows, name_of
from luthier.platform.registry.objects import object_row
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.replication import Source
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.settings import Settings
from luthier.platform.store import Row, Store, exists, fetch

COPIED = ("version", "base_model", "sha256", "rank", "parent", "created_on")


class Replicas:
    def __init__(self, store: Store, settings: Settings, catalog: Catalog) -> None:
        self._store, self._region, self._rows = store, settings.region, ModelRows(store)
        self._tell_base_models(catalog, settings.serve_base_models)
        self._newest = self._newest_change()

    def source(self, caller: Caller, name: QualifiedName) -> Source:
        """All of a model, for who may replicate it."""
        with self._store.reading() as tx:
            model = self._rows.get(tx, caller, name, Action.REPLICATE_MODEL)
            if model["replica_of"]:
                raise Conflict(
                    f"Model {model['display']} is a replica itself: replicate it from {model['replica_of']}."
                )
            fields = ("account", "role", "display", "created_on", "default_version", "last_version")
            kept = {field: model[field] for field in (*fields, "canary_version", "canary_share")}
            return Source(
                **kept,
                name=name_of(model).parts,
                region=self._region,
                versions=self._rows.versions_of(tx, model),
                aliases=self._rows.aliases_of(tx, model),
            )

    def notice(self) -> None:
        """Another region writes past this registry: by its note on the model, names are asked again. Often called."""
        newest = self._newest_change()
        if newest != self._newest:
            self._newest = newest
            self._store.note_change()

    def _newest_change(self) -> int | None:
        with self._store.reading() as tx:
            newest: int | None = tx.execute(sa.select(sa.func.max(self._rows.changes.c.id))).scalar()
        return newest

    def _tell_base_models(self, catalog: Catalog, served: tuple[str, ...]) -> None:
        """Other regions ask here what can answer in this one."""
        if self._store.is_read_only:
            return
        table = self._store.table("region_base_models")
        rows = [
            {"name": base.name, "region": self._region, "revision": base.revision, "is_served": base.name in served}
            for base in catalog
        ]
        known = self._store.rows(sa.select(table).order_by(table.c.name))
        if sorted(rows, key=lambda row: str(row["name"])) == known:
            return
        with self._store.transaction() as tx:
            tx.execute(sa.delete(table))
            tx.execute(sa.insert(table), rows)


class ReplicaRows:
    """Over another region's store."""

    def __init__(self, store: Store, region: str) -> None:
        self._store, self._region = store, region
        self._rows, self._places = ModelRows(store), PlaceRows(store)
        self._access = Access(store, self._rows.guard)
        self._base_models = store.table("region_base_models")

    def check(self, caller: Caller, source: Source, bases: dict[str, BaseModel]) -> None:
        """Raises before a file is copied to where the model could not be, or could not answer."""
        with self._store.reading() as tx:
            self._check_base_models(tx, source, bases)
            self._find(tx, caller, source)

    def write(self, caller: Caller, source: Source, paths: dict[str, str], now: int) -> tuple[list[int], list[int]]:
        """The numbers of the versions that are new there, and of those that are there no more. All or nothing.

        `paths` are the folders of the versions there, by content hash.
        """
        with self._rows.guard.change(caller) as tx:
            model = self._find(tx, caller, source) or self._insert(tx, caller, source)
            there = {_identity(each): each for each in self._rows.versions_of(tx, model)}
            wanted = {_identity(each): each for each in source.versions}
            gone = [version for key, version in there.items() if key not in wanted]
            is_gone = self._rows.versions.c.number.in_([each.number for each in gone])
            self._rows.forget(tx, model["account"], is_gone, now)
            new = [version for key, version in wanted.items() if key not in there]
            for each in new:
                row = {field: getattr(each, field) for field in COPIED}
                told = {"job_id": each.job_id or f"{IMPORT}{source.region}_{each.number}", "path": paths[each.sha256]}
                told |= {"method": each.method.value, "task_type": each.task_type.value}
                self._rows.insert_version(tx, model, {**row, **told}, now)
            if self._point(tx, source, model) or new or gone:
                self._note(tx, source, model, now)  # by which the region notices it
        return [each.version for each in new], [each.version for each in gone]

    def _find(self, tx: sa.Connection, caller: Caller, source: Source) -> Row | None:
        """The replica, if it is there, for who may change it; if not, for who may make it."""
        accounts = self._store.table("accounts").c
        if not exists(tx, accounts.name == source.account):
            raise NotFound(f"Region {self._region} has no account {source.account}: who runs it makes one.")
        self._check_has_role(tx, caller)
        name = _name(source)
        self._rows.shares.check_own(tx, source.account, name.database)
        model = self._rows.find(tx, caller, name)
        self._check_may(tx, caller, name, model if model and model["replica_of"] == source.region else None)
        if (model and model["replica_of"] != source.region) or (not model and self._rows.maker(tx, caller, name)):
            raise Conflict(
                f"Region {self._region} has a model {source.display} of its own, or makes one. Drop it there first."
            )
        return model

    def _check_has_role(self, tx: sa.Connection, caller: Caller) -> None:
        """What he is in the region that he asks says nothing of who he is there."""
        users = self._store.table("users").c
        is_user = exists(tx, users.account == caller.account, users.name == caller.user)
        if not is_user or caller.role not in self._access.roles_of(tx, caller.account, caller.user):
            raise NotAllowed(
                f"In region {self._region}: user {caller.user} does not have the role {caller.role}. Who manages users "
                f"there has to create him, and to grant it to him."
            )

    def _check_may(self, tx: sa.Connection, caller: Caller, name: QualifiedName, replica: Row | None) -> None:
        guard, about = self._rows.guard, securable(ObjectKind.MODEL, replica) if replica else None
        try:
            if about is None or not guard.may(tx, caller, Action.REPLICATE_MODEL, about):
                guard.check(tx, caller, Action.CREATE_MODEL, in_schema(name))
            if about is not None:
                guard.check(tx, caller, Action.REPLICATE_MODEL, about)
        except NotAllowed as error:
            raise NotAllowed(f"In region {self._region}: {error.message}") from error

    def _insert(self, tx: sa.Connection, caller: Caller, source: Source) -> Row:
        """It belongs to the role of the same name, if the caller has it there, else to his; a new schema does too."""
        roles = self._store.table("roles").c
        same = (roles.account == source.account, roles.name == source.role)
        held, is_there = self._rows.guard.roles(tx, caller), exists(tx, *same)
        role = source.role if is_there and not held.isdisjoint({source.role, ADMIN_ROLE}) else caller.role
        owner, name = _owner(source).model_copy(update={"role": role}), _name(source)
        model_object = Securable.named(ObjectKind.MODEL, name)
        for place in (model_object.in_database, model_object.in_schema):
            self._places.add(tx, owner, place, source.created_on)
        row = object_row(owner, name, source.created_on)
        tx.execute(sa.insert(self._rows.models).values(**row, replica_of=source.region))
        self._rows.grants.begin(tx, owner, model_object, source.created_on)
        model = self._rows.find(tx, owner, name)
        assert model
        return model

    def _point(self, tx: sa.Connection, source: Source, model: Row) -> bool:
        """The name means there what it means here; whether it meant something else."""
        fields = ("default_version", "last_version", "canary_version", "canary_share")
        meant = {field: getattr(source, field) for field in fields}
        was = {field: model[field] for field in fields}
        if was == meant and self._rows.aliases_of(tx, model) == source.aliases:
            return False
        self._rows.update(tx, model, **meant)
        tx.execute(sa.delete(self._rows.aliases).where(self._rows.aliases.c.model_id == model["id"]))
        for alias, version in source.aliases.items():
            tx.execute(sa.insert(self._rows.aliases).values(model_id=model["id"], alias=alias, version=version))
        return True

    def _note(self, tx: sa.Connection, source: Source, model: Row, now: int) -> None:
        caller = _owner(source)
        change = Change(time=now, user=caller.user, role=caller.role, verb="REPLICATE", detail=f"of {source.region}")
        self._rows.note(tx, caller, model, change)

    def _check_base_models(self, tx: sa.Connection, source: Source, bases: dict[str, BaseModel]) -> None:
        told = {row["name"]: row for row in fetch(tx, sa.select(self._base_models))}
        region = next(iter(told.values()))["region"] if told else None
        if region != self._region:
            raise Conflict(
                f"The store that the settings name for region {self._region} is that of {region or 'no region yet'}: "
                f"its own setting `region` says it, once it has been started."
            )
        for version in source.versions:
            base, there = bases[version.base_model], told.get(version.base_model)
            if there is None or there["revision"] != base.revision:
                has = f"revision {there['revision']} of it" if there else "none of that name"
                raise Conflict(
                    f"Version {version.version} of {source.display} stands on base model {base.name} (revision "
                    f"{base.revision}), and region {self._region} has {has}. It could not answer there."
                )
            answers = version.base_model in source.answering and version.method is not Method.FULL
            if answers and not there["is_served"]:
                raise Conflict(
                    f"Base model {base.name}, on which {source.display} stands, is not served in region "
                    f"{self._region}. Add it to serve_base_models there, then run `luthier up`."
                )


def _identity(version: ModelVersion) -> tuple[int, str, str]:
    """Versions never change: two that are alike in these are one."""
    return version.version, version.sha256, version.job_id or ""


def _owner(source: Source) -> Caller:
    user = source.versions[0].owner
    return Caller(account=source.account, user=user, role=source.role)


def _name(source: Source) -> QualifiedName:
    return QualifiedName(*source.name, display=source.display)
