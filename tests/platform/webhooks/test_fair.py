"""Servers that fail hold up nobody, and what is old is forgotten."""

import asyncio

import pytest

from luthier.errors import Overloaded
from luthier.platform.access import Caller, hash_key
from luthier.platform.credits import Period, Want
from luthier.platform.posting import Deliverer
from luthier.platform.registry.registry import Registry
from luthier.platform.webhooks import (
    KEPT_MS,
    MAX_OF_ACCOUNT,
    MAX_TESTS,
    MAX_WAITING,
    MAX_WEBHOOKS,
    MOST_AGE_MS,
    REST_S,
)
from tests.factories import ADMIN, make_record
from tests.fakes import Clock
from tests.platform.webhooks.outbox import LOCAL, add, budget, deliver, types
from tests.receiver import Receiver, receiving

pytestmark = pytest.mark.stores


def joined(registry: Registry, name: str) -> Caller:
    """The admin of another account."""
    registry.access.add_admin_key(name, hash_key(name), name)
    return Caller(account=name, user="admin", role="ACCOUNTADMIN")


def test_a_dead_server_with_many_notices_holds_up_nobody(
    registry: Registry, time: Clock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.platform.registry.webhooks.MAX_TESTS", MAX_WAITING)
    other = joined(registry, "other")
    with receiving() as dead:
        dead.hangs = True
        for number in range(MAX_WEBHOOKS):
            registry.webhooks.add(other, f"wh_dead{number}", dead.url, None)
        for number in range(MAX_WAITING):
            registry.webhooks.test(other, f"wh_dead{number % MAX_WEBHOOKS}", f"n{number}")
        time.now += 1
        add(registry, receiver.url)

        async def rounds() -> None:
            deliverer = Deliverer(registry.outbox, LOCAL)
            begun = await deliverer.round()
            assert len(begun) == MAX_OF_ACCOUNT
            for number in range(3):
                registry.webhooks.test(ADMIN, "wh_1", f"n{number}")
                (task,) = await deliverer.round()  # beside those that hang
                await task
            assert not any(each.done() for each in begun)
            dead.ends.set()
            await asyncio.gather(*begun)

        asyncio.run(rounds())
    assert len(receiver.got) == 3


def test_a_server_that_fails_rests_longer_each_time(registry: Registry, time: Clock, receiver: Receiver) -> None:
    receiver.statuses = [500] * 6
    add(registry, receiver.url)
    for number in range(20):
        registry.webhooks.test(ADMIN, "wh_1", f"n{number}")
    for rest in (*REST_S, REST_S[-1], REST_S[-1]):
        assert deliver(registry) == 1
        time.now += rest * 1000 - 1
        assert deliver(registry) == 0
        time.now += 1
    assert len(receiver.got) == 6
    for _ in range(20):  # it answers again
        assert deliver(registry) == 1
    assert deliver(registry) == 0


def test_what_a_dead_server_did_not_take_in_days_is_given_up(
    registry: Registry, time: Clock, receiver: Receiver
) -> None:
    add(registry, receiver.url)
    for number in range(3):
        registry.webhooks.test(ADMIN, "wh_1", f"old{number}")
    time.now += MOST_AGE_MS + 1
    registry.webhooks.test(ADMIN, "wh_1", "new")
    receiver.statuses = [500]
    assert deliver(registry) == 1
    states = [notice.deliveries[0] for notice in registry.webhooks.notices(ADMIN)]
    assert [state.given_up_on for state in states] == [None, time.now, time.now, time.now]
    time.now += REST_S[0] * 1000
    assert [deliver(registry), deliver(registry)] == [1, 0]


def test_notices_come_in_pages(registry: Registry) -> None:
    add(registry, "https://example.com/")
    for number in range(5):
        registry.webhooks.test(ADMIN, "wh_1", f"n{number}")
    whole = registry.webhooks.notices(ADMIN)
    pages = registry.webhooks.notices(ADMIN, 2)
    assert len(pages) == 2
    while page := registry.webhooks.notices(ADMIN, 2, pages[-1].id):
        pages += page
    assert pages == whole
    assert len(whole) == 5


def test_a_gone_server_gets_nothing_of_what_waits(registry: Registry, receiver: Receiver) -> None:
    receiver.statuses = [410]
    add(registry, receiver.url)
    for number in range(3):
        registry.webhooks.test(ADMIN, "wh_1", f"n{number}")
    assert [deliver(registry), deliver(registry)] == [1, 0]
    assert all(notice.deliveries[0].given_up_on for notice in registry.webhooks.notices(ADMIN))


def test_tests_are_few_enough(registry: Registry, time: Clock, receiver: Receiver) -> None:
    add(registry, receiver.url)
    for number in range(MAX_TESTS):
        first = registry.webhooks.test(ADMIN, "wh_1", f"n{number}")
        deliver(registry)
    with pytest.raises(Overloaded, match="an hour") as refused:
        registry.webhooks.test(ADMIN, "wh_1", "more")
    assert (refused.value.http, refused.value.retry_after) == (429, 600)
    assert registry.webhooks.test(ADMIN, "wh_1", f"n{MAX_TESTS - 1}").id == first.id
    other = joined(registry, "other")
    registry.webhooks.add(other, "wh_2", receiver.url, None)
    registry.webhooks.test(other, "wh_2", "n")
    time.now += 3_600_000
    registry.webhooks.test(ADMIN, "wh_1", "more")
    deliver(registry)


def test_no_tests_while_many_notices_wait(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.platform.registry.webhooks.MAX_WAITING", 3)
    add(registry, "https://example.com/")
    for number in range(3):
        registry.webhooks.test(ADMIN, "wh_1", f"n{number}")
    with pytest.raises(Overloaded, match="wait"):
        registry.webhooks.test(ADMIN, "wh_1", "more")


def test_old_notices_are_forgotten_in_parts_and_not_told_again(
    registry: Registry, time: Clock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.platform.registry.outbox.MAX_FORGOTTEN", 2)
    registry.credits.limit(ADMIN, "main")
    budget(registry, 5, period=Period.NONE)
    registry.ledger.append([make_record("a", amount_ucr=6)])
    refusing = Want(id="l1", account="main", scope="", turn=1, total_ucr=9, need_ucr=9, has_refused=True)
    registry.credits.renew("r1", [], [refusing])
    add(registry, receiver.url)
    registry.webhooks.test(ADMIN, "wh_1", "taken")
    deliver(registry)
    registry.webhooks.add(ADMIN, "wh_2", "https://127.0.0.1:1/", None)
    registry.webhooks.test(ADMIN, "wh_2", "waits")
    time.now += KEPT_MS
    assert registry.outbox.forget() == 0
    time.now += 1
    registry.webhooks.test(ADMIN, "wh_1", "young")
    assert [registry.outbox.forget() for _ in range(3)] == [2, 2, 0]
    assert types(registry) == ["webhook.test"] * 2
    registry.ledger.append([make_record("b", amount_ucr=6)])
    registry.credits.renew("r2", [], [refusing.model_copy(update={"id": "l2"})])
    budget(registry, 5, period=Period.NONE)
    registry.ledger.append([make_record("c", amount_ucr=6)])
    assert types(registry) == ["webhook.test"] * 2, "they were told"
    registry.credits.top_up(ADMIN, "main", 1, "k")
    registry.credits.renew("r3", [], [refusing.model_copy(update={"id": "l3"})])
    assert types(registry) == ["balance.refused", "webhook.test", "webhook.test"]


def test_a_clock_that_is_set_back_holds_up_nobody(registry: Registry, time: Clock, receiver: Receiver) -> None:
    add(registry, receiver.url)
    for number, step in enumerate((0, -3_600_000)):
        time.now += step
        registry.webhooks.test(ADMIN, "wh_1", f"n{number}")
        assert deliver(registry) == 1
