"""Verbs on which of its versions a model's name means: default, canary, aliases. Each is one transaction.

Every change is a row that stays, also when the model is dropped.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput, LuthierError
from luthier.platform.access import Caller
from luthier.platform.jobs import now_ms
from luthier.platform.models import Change, Model, ModelVersion, Serving, VersionInfo
from luthier.platform.names import QualifiedName
from luthier.platform.privileges import Action
from luthier.platform.registry.again import each
from luthier.platform.registry.model_rows import ModelRows, name_of
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.securables import ObjectKind
from luthier.platform.store import Row, Store, fetch
from luthier.platform.versions import Wanted

LATELY_MS = 30_000
"""By then every door has heard of a change."""
NO_CANARY = {"canary_version": None, "canary_share": None}


class Versions:
    def __init__(self, store: Store, clock: Callable[[], int] = now_ms) -> None:
        self._store, self._clock = store, clock
        self._rows = ModelRows(store)

    def show(self, caller: Caller, name: QualifiedName) -> list[VersionInfo]:
        """All versions of a model, oldest first."""
        with self._store.reading() as tx:
            model = self._rows.get(tx, caller, name, Action.INSPECT_MODEL)
            aliases = self._rows.aliases_of(tx, model)
            losses = self._losses(tx, model)
            return [_info(model, each, aliases, losses) for each in self._rows.versions_of(tx, model)]

    def numbers(self, of: Collection[ModelVersion]) -> dict[int, list[int]]:
        """All versions of the models that these are of, by the numbers of these."""
        one, versions = self._rows.versions.alias().c, self._rows.versions.c
        query = sa.select(one.number, versions.version).where(
            one.number.in_([each.number for each in of]), versions.model_id == one.model_id
        )
        found: dict[int, list[int]] = {each.number: [] for each in of}
        for row in self._store.rows(query.order_by(versions.version)):
            found[row["number"]].append(row["version"])
        return found

    def serving(self, caller: Caller, name: QualifiedName, version: Wanted = None) -> Serving:
        """What answers for a name, when this caller asks."""
        with self._store.reading() as tx:
            model = self._rows.get(tx, caller, name, Action.COMPLETE)
            default = self._rows.version(tx, model, version)
            if version is not None:
                return Serving(default=default)
            before, _ = self._before(tx, model)
            canary = self._rows.numbered(tx, model, model["canary_version"])
            return Serving(
                default=default,
                canary=canary,
                share=model["canary_share"] or 0.0,
                before=before,
                lately=self._lately(tx, model),
            )

    def serving_all(self, asked: Sequence[tuple[Caller, QualifiedName, Wanted]]) -> list[Serving | LuthierError]:
        return each(self.serving, asked)

    def epoch(self) -> str:
        """Another one after each change to whom keys let in, what names mean or who may ask them. Costs no query."""
        return self._store.epoch

    def history(self, caller: Caller, name: QualifiedName, limit: int = MAX_SHOWN, after: int = 0) -> list[Change]:
        """What changed of the model, oldest first; of one of that name that was dropped, what the caller's roles did.

        From behind a change's id: those that he sees are numbered from 1 on.
        """
        changes = self._rows.changes
        with self._store.reading() as tx:
            mine = self._rows.guard.made(tx, caller, Action.READ_HISTORY, ObjectKind.HISTORY, changes)
            if self._rows.is_seen(tx, caller, name):
                self._rows.get(tx, caller, name, Action.INSPECT_MODEL)
                mine = sa.or_(mine, changes.c.id > self._dropped(tx, caller, name))
            of_name = (changes.c.account == caller.account, changes.c.model == name.dotted)
            its = sa.select(changes).where(*of_name, mine).order_by(changes.c.id)
            rows = fetch(tx, its.offset(after).limit(min(limit, MAX_SHOWN)))
        return [Change.from_row({**row, "id": number}) for number, row in enumerate(rows, after + 1)]

    def promote(self, caller: Caller, name: QualifiedName, version: Wanted) -> Model:
        """The version is the default from now on, and no other has a share."""
        with self._rows.guard.change(caller) as tx:
            model = self._rows.get(tx, caller, name, Action.CHANGE_MODEL)
            self.promote_in(tx, caller, model, self._rows.version(tx, model, version).version)
            return self._rows.described(tx, self._rows.get(tx, caller, name, Action.CHANGE_MODEL))

    def promote_in(self, tx: sa.Connection, caller: Caller, model: Row, version: int) -> None:
        if model["default_version"] == version and model["canary_version"] is None:
            return
        if model["default_version"] == version:
            self._end_canary(tx, caller, model)
            return
        if model["canary_version"] not in (None, version):
            self._end_canary(tx, caller, model)
        chain = {"was": model["default_version"], "before": model["promotion"]}
        promotion = self.note(tx, caller, model, "PROMOTE", version, f"was {chain['was']}", **chain)
        self._rows.update(tx, model, default_version=version, promotion=promotion, **NO_CANARY)

    def rollback(self, caller: Caller, name: QualifiedName, leaving: int) -> Model:
        """The default is what it was before; asked again, with a default that is left already, nothing changes."""
        with self._rows.guard.change(caller) as tx:
            model = self._rows.get(tx, caller, name, Action.CHANGE_MODEL)
            if model["default_version"] == leaving:
                before, promotion = self._before(tx, model)
                if before is None:
                    raise Conflict(f"Model {model['display']} has no earlier default than version {leaving}.")
                if model["canary_version"] not in (None, before.version):
                    self._end_canary(tx, caller, model)
                self.note(tx, caller, model, "ROLLBACK", before.version, f"was {leaving}", was=leaving)
                self._rows.update(tx, model, default_version=before.version, promotion=promotion, **NO_CANARY)
            return self._rows.described(tx, self._rows.get(tx, caller, name, Action.CHANGE_MODEL))

    def set_alias(self, caller: Caller, name: QualifiedName, alias: str, version: Wanted) -> Model:
        """The alias, a folded key that parse_alias let through, means the version from now on."""
        with self._rows.guard.change(caller) as tx:
            model = self._rows.get(tx, caller, name, Action.CHANGE_MODEL)
            number = self._rows.version(tx, model, version).version
            if self._rows.aliases_of(tx, model).get(alias) != number:
                self._remove_alias(tx, model, alias)
                row = {"model_id": model["id"], "alias": alias, "version": number}
                tx.execute(sa.insert(self._rows.aliases).values(**row))
                self.note(tx, caller, model, "SET_ALIAS", number, alias)
            return self._rows.described(tx, model)

    def drop_alias(self, caller: Caller, name: QualifiedName, alias: str) -> Model:
        with self._rows.guard.change(caller) as tx:
            model = self._rows.get(tx, caller, name, Action.CHANGE_MODEL)
            if self._remove_alias(tx, model, alias):
                self.note(tx, caller, model, "DROP_ALIAS", None, alias)
            return self._rows.described(tx, model)

    def set_canary(self, caller: Caller, name: QualifiedName, version: Wanted, share: float) -> Model:
        """The version answers that many of a hundred requests; a new canary ends the one before."""
        if not 0 < share < 100:
            raise InvalidInput(f"A canary's share is more than 0 and less than 100 percent, and this is {share:g}.")
        with self._rows.guard.change(caller) as tx:
            model = self._rows.get(tx, caller, name, Action.CHANGE_MODEL)
            canary, default = self._rows.version(tx, model, version), self._rows.version(tx, model, None)
            _check_canary(canary, default)
            number = canary.version
            if (number, share) != (model["canary_version"], model["canary_share"]):
                self.note(tx, caller, model, "SET_CANARY", number, f"{share:g}%")
                self._rows.update(tx, model, canary_version=number, canary_share=share)
            return self._rows.described(tx, self._rows.get(tx, caller, name, Action.CHANGE_MODEL))

    def end_canary(self, caller: Caller, name: QualifiedName) -> Model:
        """All requests are the default's again."""
        with self._rows.guard.change(caller) as tx:
            model = self._rows.get(tx, caller, name, Action.CHANGE_MODEL)
            if model["canary_version"] is not None:
                self._end_canary(tx, caller, model)
            return self._rows.described(tx, self._rows.get(tx, caller, name, Action.CHANGE_MODEL))

    def note(
        self,
        tx: sa.Connection,
        caller: Caller,
        model: Row,
        verb: str,
        version: int | None,
        detail: str = "",
        **chain: int | None,
    ) -> int:
        change = Change(
            time=self._clock(), user=caller.user, role=caller.role, verb=verb, version=version, detail=detail
        )
        return self._rows.note(tx, caller, model, change, **chain)

    def note_dropped(self, tx: sa.Connection, caller: Caller, names: Iterable[QualifiedName]) -> None:
        change = Change(time=self._clock(), user=caller.user, role=caller.role, verb="DROP", version=None, detail="")
        self._rows.note_all(tx, caller, names, change)

    def _end_canary(self, tx: sa.Connection, caller: Caller, model: Row) -> None:
        self.note(tx, caller, model, "END_CANARY", model["canary_version"])
        self._rows.update(tx, model, **NO_CANARY)

    def _dropped(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> int:
        """The change by which the last model of that name went; 0: the one that is there is the first."""
        columns = self._rows.changes.c
        of_name = (columns.account == caller.account, columns.model == name.dotted, columns.verb == "DROP")
        return tx.execute(sa.select(sa.func.max(columns.id)).where(*of_name)).scalar() or 0

    def _remove_alias(self, tx: sa.Connection, model: Row, alias: str) -> bool:
        columns = self._rows.aliases.c
        same = sa.and_(columns.model_id == model["id"], columns.alias == alias)
        return tx.execute(sa.delete(self._rows.aliases).where(same)).rowcount > 0

    def _before(self, tx: sa.Connection, model: Row) -> tuple[ModelVersion | None, int | None]:
        """The default before this one that is still there, and the promotion that had made it the default."""
        columns, promotion = self._rows.changes.c, model["promotion"]
        while promotion is not None:
            query = sa.select(columns.was, columns.before).where(columns.id == promotion)
            was, promotion = tx.execute(query).one()
            if (version := self._rows.numbered(tx, model, was)) and was != model["default_version"]:
                return version, promotion
        return None, None

    def _lately(self, tx: sa.Connection, model: Row) -> tuple[ModelVersion, ...]:
        """Versions that a request may be on its way to which was resolved before the last changes."""
        columns = self._rows.changes.c
        query = sa.select(columns.version, columns.was, columns.verb).where(
            columns.account == model["account"],
            columns.model == name_of(model).dotted,
            columns.time >= self._clock() - LATELY_MS,
            columns.verb.in_(("PROMOTE", "ROLLBACK", "END_CANARY")),
        )
        rows = tx.execute(query.order_by(columns.id))
        left = [row.version if row.verb == "END_CANARY" else row.was for row in rows]
        found = (self._rows.numbered(tx, model, number) for number in dict.fromkeys(left))
        return tuple(version for version in found if version)

    def _losses(self, tx: sa.Connection, model: Row) -> dict[str, tuple[float, float]]:
        """(training, validation) by job."""
        jobs, versions = self._rows.jobs.c, self._rows.versions.c
        made = sa.select(versions.job_id).where(versions.model_id == model["id"])
        query = sa.select(jobs.id, jobs.training_loss, jobs.validation_loss).where(jobs.id.in_(made))
        return {job_id: (training, validation) for job_id, training, validation in tx.execute(query)}


def _check_canary(canary: ModelVersion, default: ModelVersion) -> None:
    if canary.version == default.version:
        raise InvalidInput(f"Version {canary.version} of {canary.model} is the default: it has all other requests.")
    if canary.base_model != default.base_model:
        raise InvalidInput(
            f"Version {canary.version} of {canary.model} stands on {canary.base_model}, the default on "
            f"{default.base_model}, and HAProxy knows one place a name: ask for it as {canary.model}@{canary.version}."
        )


def _info(
    model: Row, version: ModelVersion, aliases: dict[str, int], losses: dict[str, tuple[float, float]]
) -> VersionInfo:
    is_default, canary = version.version == model["default_version"], model["canary_share"] or 0.0
    is_canary = version.version == model["canary_version"]
    training, validation = losses.get(version.job_id or "", (None, None))
    return VersionInfo(
        **version.model_dump(),
        is_default=is_default,
        aliases=[alias for alias, number in aliases.items() if number == version.version],
        share=100.0 - canary if is_default else canary if is_canary else 0.0,
        training_loss=training,
        validation_loss=validation,
    )
