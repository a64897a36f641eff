"""The ledger: each record once, whatever comes twice; sums are exact; other content is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from luthier.errors import Conflict
from luthier.platform.access import Caller
from luthier.platform.metering import Source, UsageKind, UsageRecord, completion_usage, training_usage
from luthier.platform.prices import load_prices
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import HOUR_MS, SUMS, Selection, UsageReader
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.store import Store
from tests.factories import ADMIN, ledger_of, make_record
from tests.forging import empty
from tests.machines import memory

pytestmark = pytest.mark.stores

PRICES = load_prices(configs_dir() / "prices.toml")
amounts = st.integers(0, 10**12)
contents = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(UsageKind),
        "source_id": st.sampled_from("abcdef"),
        "prompt_tokens": amounts,
        "amount_ucr": amounts,
    }
)


def fresh_ledger() -> tuple[Ledger, UsageReader]:
    """Over a database in memory, with the account of the records."""
    store = memory()
    empty(store)
    with store.transaction() as tx:
        tx.execute(sa.insert(store.table("accounts")).values(name=ADMIN.account, created_on=0))
    return Ledger(store), UsageReader(store)


class LedgerMachine(RuleBasedStateMachine):
    """Batches with repeats and contradictions, beside a dictionary that is what the ledger should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.usage = fresh_ledger()
        self.kept: dict[tuple[UsageKind, str], UsageRecord] = {}

    @rule(batch=st.lists(contents, max_size=5))
    def append(self, batch: list[dict[str, Any]]) -> None:
        records = [make_record(**content) for content in batch]
        after = dict(self.kept)
        clash = any(after.setdefault((each.kind, each.source_id), each) != each for each in records)
        if clash:
            with pytest.raises(Conflict, match="other content"):
                self.ledger.append(records)
        else:
            assert self.ledger.append(records) == len(after) - len(self.kept)
            self.kept = after

    @rule()
    def repeat_everything(self) -> None:
        assert self.ledger.append(list(self.kept.values())) == 0

    @invariant()
    def sums_are_those_of_the_distinct_records(self) -> None:
        totals = {row["kind"]: row for row in self.usage.sums(ADMIN, ["kind"], Selection())}
        for kind in UsageKind:
            mine = [record for record in self.kept.values() if record.kind is kind]
            assert (kind.value in totals) == bool(mine)
            for name in SUMS if mine else ():
                assert totals[kind.value][name] == sum(getattr(record, name) for record in mine)
                assert type(totals[kind.value][name]) is int


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = hypothesis_settings(max_examples=25, stateful_step_count=12)


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trained=st.lists(st.integers(0, 10**9), max_size=20))
def test_a_sum_of_records_is_exact(trained: list[int]) -> None:
    ledger, usage = fresh_ledger()
    records = [_training(f"ft_{number}", tokens) for number, tokens in enumerate(trained)]
    assert ledger.append(records + records) == len(records)
    rows = usage.sums(ADMIN, ["kind"], Selection())
    assert sum(row["amount_ucr"] for row in rows) == sum(record.amount_ucr for record in records)


def test_one_contradiction_refuses_the_whole_batch(registry: Registry) -> None:
    registry.ledger.append([make_record("a")])
    with pytest.raises(Conflict, match="completion a is in the ledger"):
        registry.ledger.append([make_record("b"), make_record("a", prompt_tokens=4)])
    assert [record.source_id for record in ledger_of(registry)] == ["a"]


@pytest.mark.parametrize(
    "statement", ["UPDATE usage SET amount_ucr = 0", "DELETE FROM usage", "DELETE FROM usage WHERE source_id = 'a'"]
)
def test_the_store_refuses_changes(registry: Registry, settings: Settings, statement: str) -> None:
    registry.ledger.append([make_record("a"), make_record("b")])
    store = Store(settings.store_url)
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), store.transaction() as tx:
        tx.exec_driver_sql(statement)
    assert registry.ledger.append([make_record("a"), make_record("b"), make_record("c")]) == 1
    assert len(ledger_of(registry)) == 3


def test_times_are_a_half_open_interval(registry: Registry) -> None:
    registry.ledger.append([make_record(str(time), time=time) for time in (10, 20, 30)])
    found = registry.usage.page(ADMIN, Selection(since=20, until=30))
    assert [record.time for _, record in found] == [20]


def test_groups(registry: Registry) -> None:
    day = 24 * HOUR_MS
    records = [("a", 0), ("b", HOUR_MS - 1), ("c", HOUR_MS), ("d", day)]
    registry.ledger.append([make_record(name, time=time, model=f"m_{name < 'c'}") for name, time in records])
    by_hour = registry.usage.sums(ADMIN, ["hour"], Selection())
    assert [(row["hour"], row["records"]) for row in by_hour] == [(0, 2), (HOUR_MS, 1), (day, 1)]
    by_day = registry.usage.sums(ADMIN, ["day", "model"], Selection())
    assert [(row["day"], row["model"], row["records"]) for row in by_day] == [
        (0, "m_False", 1),
        (0, "m_True", 2),
        (day, "m_False", 1),
    ]


def test_accounts_do_not_see_each_other(registry: Registry) -> None:
    registry.ledger.append([make_record("a")])
    other = Caller(account="other", user="u", role="r")
    assert ledger_of(registry, UsageKind.COMPLETION, other) == []
    assert registry.usage.sums(other, ["kind"], Selection()) == []


@pytest.mark.parametrize(
    ("make", "kind", "tokens", "ucr"),
    [
        (lambda: _training("x", 25), UsageKind.TRAINING, 25, 3),
        (lambda: completion_usage(ADMIN, _source("x"), PRICES, (100, 50), 7), UsageKind.COMPLETION, 150, 4),
    ],
)
def test_records_carry_their_price(make: Callable[[], UsageRecord], kind: UsageKind, tokens: int, ucr: int) -> None:
    record = make()
    assert (record.kind, record.tokens, record.amount_ucr) == (kind, tokens, ucr)
    assert (record.price_version, record.account, record.user) == (PRICES.version, ADMIN.account, ADMIN.user)


def _source(source_id: str) -> Source:
    return Source(id=source_id, function="FINETUNE", base_model="tiny", price_class="small", model="M")


def _training(source_id: str, tokens: int) -> UsageRecord:
    return training_usage(ADMIN, _source(source_id), PRICES, (tokens, 0), 7)
