"""Verbs on budgets: what roles, users and keys of an account may spend, within its balance."""

from collections.abc import Callable

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.credits import ACCOUNT, MAX_BUDGETS, Budget, BudgetKind, Period, budget_scope, period_start
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.limit_notices import UNTOLD
from luthier.platform.registry.limits import Limits
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.store import Row, Store, exists


class Budgets:
    """The account's administrator's."""

    def __init__(self, store: Store, guard: Guard, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._clock = store, guard, clock
        self._limits = Limits(store, clock)
        self._owners = {
            BudgetKind.ROLE: store.table("roles").c,
            BudgetKind.USER: store.table("users").c,
            BudgetKind.KEY: store.table("keys").c,
        }

    def set(self, caller: Caller, budget: Budget) -> Budget:
        """From now on; of a budget that is there already what was spent stays. The same again changes nothing."""
        scope = budget_scope(budget.kind, budget.name)
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            self._check_owner(tx, caller.account, budget)
            began = period_start(budget.period, self._clock())
            known = self._limits.find(tx, caller.account, scope) or {}
            if not known and self._limits.num_budgets(tx, caller.account) >= MAX_BUDGETS:
                raise Conflict(f"An account has at most {MAX_BUDGETS} budgets. Drop one first.")
            self._limits.ensure(tx, caller.account, scope)
            wanted = {"granted_ucr": budget.granted_ucr, "is_hard": budget.is_hard, "period": budget.period.value}
            told = {} if wanted.items() <= known.items() else UNTOLD
            self._limits.update(tx, caller.account, scope, **wanted, period_began=began, **told)
            return self._get(tx, caller, scope)

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None) -> list[Budget]:
        """By kinds and names, from behind a scope."""
        with self._store.reading() as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            return [_budget(row) for row in self._limits.read(tx, caller.account, limit, after or ACCOUNT)]

    def drop(self, caller: Caller, kind: BudgetKind, name: str) -> Budget:
        """From now on nothing but the account's balance limits its owner."""
        scope = budget_scope(kind, name)
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            budget = self._get(tx, caller, scope)
            self._limits.delete(tx, caller.account, scope)
            return budget

    def _get(self, tx: sa.Connection, caller: Caller, scope: str) -> Budget:
        row = self._limits.find(tx, caller.account, scope)
        if row is None:
            raise NotFound(
                f"No budget of {scope.replace(':', ' ')}. `luthier credits budgets list` shows those there are."
            )
        return _budget(row)

    def _check_owner(self, tx: sa.Connection, account: str, budget: Budget) -> None:
        columns = self._owners[budget.kind]
        name = columns.id if budget.kind is BudgetKind.KEY else columns.name
        if not exists(tx, columns.account == account, name == budget.name):
            raise NotFound(f"No {budget.kind} {budget.name} in this account.")


def _budget(row: Row) -> Budget:
    kind, _, name = row["scope"].partition(":")
    kept = {field: row[field] for field in Budget.model_fields if field in row}
    return Budget(**{**kept, "kind": BudgetKind(kind), "name": name, "period": Period(row["period"])})
