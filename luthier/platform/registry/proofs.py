"""Verbs on proofs: what engines found of the versions that they loaded."""

from collections.abc import Callable, Collection

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.models import ModelVersion, Proof
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.securables import ObjectKind
from luthier.platform.store import Store, exists, fetch

NOT_LOADED = Proof(reason="no engine has loaded it yet")


class Proofs:
    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store, self._clock, self._guard = store, clock, Guard(store)
        self._proofs, self._versions, self._models = (store.table(name) for name in ("proofs", "versions", "models"))

    def report(self, number: int, proof: Proof) -> None:
        """The newest stays. Of a version that was dropped meanwhile nothing is kept."""
        row = {"number": number, "state": proof.state.value, "reason": proof.reason, "checked_on": self._clock()}
        with self._store.transaction() as tx:
            tx.execute(sa.delete(self._proofs).where(self._proofs.c.number == number))
            if exists(tx, self._versions.c.number == number):
                tx.execute(sa.insert(self._proofs).values(**row))

    def of(self, versions: Collection[ModelVersion]) -> dict[int, Proof]:
        """By the versions' numbers."""
        numbers = [version.number for version in versions]
        rows = self._store.rows(sa.select(self._proofs).where(self._proofs.c.number.in_(numbers)))
        found = {row.pop("number"): Proof(**row) for row in rows}
        return {number: found.get(number, NOT_LOADED) for number in numbers}

    def names(self, caller: Caller, numbers: Collection[int]) -> dict[int, str]:
        """Of the models that the caller may see: those and the versions that these numbers stand for."""
        joined = sa.join(self._models, self._versions, self._versions.c.model_id == self._models.c.id)
        query = sa.select(self._models, self._versions.c.number, self._versions.c.version).select_from(joined)
        own = self._models.c.account == caller.account
        with self._store.reading() as tx:
            found = fetch(tx, query.where(own, self._versions.c.number.in_(numbers)))
            seen = self._guard.allowed(tx, caller, Action.SEE_MODEL, ObjectKind.MODEL, found)
        return {row["number"]: f"{row['display']}@{row['version']}" for row in seen}
