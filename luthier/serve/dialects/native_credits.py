"""The native API's routes on credits: what an account has, and what it is given."""

from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import AfterValidator, Field, field_validator

from luthier.platform.credits import Balance, Budget, BudgetKind, Period, TopUp, budget_scope
from luthier.platform.frozen import Frozen
from luthier.platform.prices import to_credits, to_ucr
from luthier.platform.securables import role_key, user_key
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import PageOf
from luthier.serve.doors.paths import NAME

routes = JsonRouter()

BUDGET = f"/credits/budgets/{{kind}}/{NAME}"
TopUpKey = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


class OfAccount(Frozen):
    account: str | None = None
    """The caller's own when not given."""


class NewTopUp(OfAccount):
    credits: str
    """Decimal, with at most six decimals."""
    note: str = Field("", max_length=1000)

    @field_validator("credits")
    @classmethod
    def _is_an_amount(cls, credits: str) -> str:
        if not to_ucr(credits):
            raise ValueError("a top-up is more than 0 credits")
        return credits


@routes.get("/credits")
def show_credits(caller: CallerOf, services: ServicesOf, account: str | None = None) -> dict[str, Any]:
    """The balance. Without limits (`is_limited` is false) nothing but that is told."""
    return balance_told(services.registry.credits.balance(caller, account))


@routes.get("/credits/topups")
def show_topups(caller: CallerOf, services: ServicesOf, page: PageOf, account: str | None = None) -> dict[str, Any]:
    """Newest first."""
    topups = services.registry.credits.topups(caller, account, page.limit, page.after)
    return page.told("topups", topups, lambda topup: topup.key, map(_topup_told, topups))


@routes.post("/credits/topups", status_code=201)
def top_up(request: Request, body: NewTopUp, key: TopUpKey, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Adds to a balance, once for each Idempotency-Key. The first top-up limits the account to its balance."""
    request.state.object = ("account", body.account or caller.account)
    account = body.account or caller.account
    return _topup_told(services.registry.credits.top_up(caller, account, to_ucr(body.credits), key, body.note))


@routes.put("/credits/limit")
def limit(request: Request, body: OfAccount, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The account spends no more than its balance from now on, be that nothing."""
    request.state.object = ("account", body.account or caller.account)
    return balance_told(services.registry.credits.limit(caller, body.account or caller.account))


def _level(credits: str | None) -> str | None:
    if credits is not None:
        to_ucr(credits)
    return credits


class AlertBody(Frozen):
    credits: Annotated[str | None, AfterValidator(_level)]
    """Decimal, with at most six decimals; null: no alert."""


@routes.put("/credits/alert")
def set_alert(request: Request, body: AlertBody, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Less than this left of the balance is told to the account's webhooks, once for each top-up."""
    request.state.object = ("account", caller.account)
    level = None if body.credits is None else to_ucr(body.credits)
    return balance_told(services.registry.credits.alert(caller, level))


class BudgetBody(Frozen):
    credits: Annotated[str, AfterValidator(_level)]
    """Decimal, with at most six decimals."""
    period: Period = Period.NONE
    is_hard: bool = True


@routes.get("/credits/budgets")
def show_budgets(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """Of the account's roles, users and keys."""
    budgets = services.registry.budgets.show(caller, page.limit, page.after)
    shown = map(_budget_told, budgets)
    return page.told("budgets", budgets, lambda budget: budget_scope(budget.kind, budget.name), shown)


@routes.put(BUDGET)
def set_budget(kind: BudgetKind, name: str, body: BudgetBody, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """What the role, user or key may spend, in all or in each day or month (UTC), within the account's balance."""
    wanted = {"granted_ucr": to_ucr(body.credits), "period": body.period, "is_hard": body.is_hard}
    return _budget_told(services.registry.budgets.set(caller, Budget(kind=kind, name=_owner(kind, name), **wanted)))


@routes.delete(BUDGET)
def drop_budget(kind: BudgetKind, name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return _budget_told(services.registry.budgets.drop(caller, kind, _owner(kind, name)))


def _owner(kind: BudgetKind, name: str) -> str:
    """As the registry knows it."""
    match kind:
        case BudgetKind.ROLE:
            return role_key(name)
        case BudgetKind.USER:
            return user_key(name)
        case BudgetKind.KEY:
            return name


def _budget_told(budget: Budget) -> dict[str, Any]:
    amounts = {name: f"{to_credits(getattr(budget, f'{name}_ucr')):f}" for name in ("granted", "spent", "reserved")}
    return {**budget.model_dump(mode="json", include={"kind", "name", "period", "is_hard", "passed_on"}), **amounts}


def balance_told(balance: Balance) -> dict[str, Any]:
    """Credits as exact decimals; without limits there are none to tell."""
    told: dict[str, Any] = {"account": balance.account, "is_limited": balance.is_limited}
    if balance.is_limited:
        for name in ("available", "granted", "spent", "held", "leased", "overrun"):
            told[name] = f"{to_credits(getattr(balance, f'{name}_ucr')):f}"
    if balance.alert_ucr is not None:
        told["alert"] = f"{to_credits(balance.alert_ucr):f}"
    return told


def _topup_told(topup: TopUp) -> dict[str, Any]:
    return {**topup.model_dump(exclude={"amount_ucr"}), "credits": f"{to_credits(topup.amount_ucr):f}"}
