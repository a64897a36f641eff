"""Notices are written once, in the transaction that notices, and reach their webhooks at last, signed, and only where
they may go."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from standardwebhooks import Webhook as Verifier

from luthier.errors import Conflict, InvalidInput, NotAllowed, NotFound, Overloaded, PaymentRequired
from luthier.platform import posting
from luthier.platform.access import Caller, hash_key
from luthier.platform.addresses import Addresses
from luthier.platform.credits import Budget, BudgetKind, Period, Want
from luthier.platform.jobs import Event, EventType, now_ms, shortened_words
from luthier.platform.options import FinetuneOptions
from luthier.platform.posting import Deliverer
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.webhooks import (
    KEPT_MS,
    MAX_OF_ACCOUNT,
    MAX_TESTS,
    MAX_WAITING,
    MAX_WEBHOOKS,
    MOST_AGE_MS,
    PAUSES_S,
    REST_S,
    NoticeType,
)
from tests.factories import ADMIN, add_admin, make_job, make_record
from tests.fakes import Clock, Launcher
from tests.receiver import Receiver, receiving

pytestmark = pytest.mark.stores
LOCAL = Addresses(["127.0.0.0/8"])
DAY_MS = 86_400_000


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def time() -> Clock:
    return Clock(now_ms())


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, time: Clock) -> Registry:
    registry = Registry(settings, launcher, time)
    add_admin(registry)
    return registry


def deliver(registry: Registry, addresses: Addresses = LOCAL) -> int:
    """One round, with its answers; how many were tried."""

    async def round() -> int:
        return len(await asyncio.gather(*await Deliverer(registry.outbox, addresses).round()))

    return asyncio.run(round())


def add(registry: Registry, url: str, *types: NoticeType, id: str = "wh_1") -> str:
    """Its secret."""
    return registry.webhooks.add(ADMIN, id, url, types or None)[1]


def types(registry: Registry) -> list[str]:
    return [notice.type.value for notice in registry.webhooks.notices(ADMIN)]


def budget(registry: Registry, ucr: int, is_hard: bool = False, period: Period = Period.DAY) -> None:
    wanted = Budget(kind=BudgetKind.USER, name="admin", granted_ucr=ucr, period=period, is_hard=is_hard)
    registry.budgets.set(ADMIN, wanted)


def test_one_that_fails_twice_and_then_takes_it(
    registry: Registry, settings: Settings, launcher: Launcher, time: Clock, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302]
    secret = add(registry, receiver.url)
    budget(registry, 5)
    registry.ledger.append([make_record("a", amount_ucr=6)])
    assert deliver(registry) == 1
    assert deliver(registry) == 0, "it waits"
    registry = Registry(settings, launcher, time)  # the registry is killed in between
    for pause in PAUSES_S[:2]:
        time.now += pause * 1000
        assert deliver(registry) == 1
    assert deliver(registry) == 0
    assert len(receiver.got) == 3
    (notice,) = registry.webhooks.notices(ADMIN)
    (state,) = notice.deliveries
    assert (state.attempts, state.taken_on, state.told) == (3, time.now, "")
    for headers, body in receiver.got:
        assert Verifier(secret).verify(body, headers)["type"] == "luthier.budget.passed"
        assert headers["webhook-id"] == notice.id
        with pytest.raises(Exception, match="No matching signature"):
            Verifier(secret).verify(body + " ", headers)
    told = json.loads(receiver.got[0][1])
    assert told["data"] == {
        "account": "main",
        "kind": "user",
        "name": "admin",
        "period": "day",
        "is_hard": False,
        "granted": "0.000005",
        "spent": "0.000006",
    }


def test_a_soft_budget_is_told_once_in_a_period(registry: Registry, time: Clock) -> None:
    budget(registry, 5)
    for number in range(4):
        registry.ledger.append([make_record(f"a{number}", amount_ucr=3)])
    assert types(registry) == ["budget.passed"]
    budget(registry, 5)  # set again as it is
    registry.ledger.append([make_record("b", amount_ucr=3)])
    assert types(registry) == ["budget.passed"]
    time.now += DAY_MS
    registry.ledger.append([make_record("c", amount_ucr=5)])
    assert len(types(registry)) == 1
    registry.ledger.append([make_record("d", amount_ucr=1)])
    assert len(types(registry)) == 2


def test_what_is_not_kept_is_not_told(registry: Registry) -> None:
    budget(registry, 5)
    registry.ledger.append([make_record("a", amount_ucr=1)])
    with pytest.raises(Conflict):
        registry.ledger.append([make_record("a", amount_ucr=2), make_record("b", amount_ucr=9)])
    assert types(registry) == []


def test_a_balance_that_runs_low(registry: Registry) -> None:
    with pytest.raises(Conflict):
        registry.credits.alert(ADMIN, 50)
    registry.credits.top_up(ADMIN, "main", 100, "k1")
    assert registry.credits.alert(ADMIN, 50).alert_ucr == 50
    registry.ledger.append([make_record("a", amount_ucr=50)])
    assert types(registry) == []
    for number in range(3):
        registry.ledger.append([make_record(f"b{number}", amount_ucr=1)])
    assert types(registry) == ["balance.low"]
    registry.credits.top_up(ADMIN, "main", 100, "k2")
    registry.ledger.append([make_record("c", amount_ucr=97)])
    assert types(registry) == ["balance.low"]
    registry.ledger.append([make_record("d", amount_ucr=2)])
    assert types(registry) == ["balance.low"] * 2
    registry.credits.alert(ADMIN, None)


def test_a_refused_job_is_told_once(registry: Registry) -> None:
    registry.credits.limit(ADMIN, "main")
    budget(registry, 0, is_hard=True)
    for number in range(2):
        with pytest.raises(PaymentRequired):
            registry.jobs.submit(make_job(f"ft_{number}"))
    assert sorted(types(registry)) == ["balance.refused", "budget.refused"]


def test_a_job_that_its_budget_shortens_is_told_once(registry: Registry, launcher: Launcher) -> None:
    launcher.num_jobs = 2
    options = FinetuneOptions(budget_credits="0.5", on_budget="shorten")
    report = {"rows": 2, "trained_tokens": 60}
    for job_id, is_shortened in (("ft_1", True), ("ft_2", False)):
        job = make_job(job_id, f"LUTHIER.PUBLIC.{job_id}", options=options)
        registry.jobs.submit(job.model_copy(update={"report": {**report, "is_shortened": is_shortened}}))
    (notice,) = registry.webhooks.notices(ADMIN)
    about = {"kind": "job", "name": "ft_1", "model": "LUTHIER.PUBLIC.ft_1", "granted": "0.5"}
    assert (notice.type, notice.data) == (NoticeType.BUDGET_SHORTENED, about)
    registry.jobs.tick()
    told = [Event(time=1, type=EventType.SHORTENED, message=shortened_words(tokens)) for tokens in (60, 58)]
    for _ in range(2):
        for job_id in ("ft_1", "ft_2"):
            registry.jobs.report(job_id, None, told)
    for job_id in ("ft_1", "ft_2"):
        words = [event.message for event in registry.jobs.events(ADMIN, job_id) if event.type == EventType.SHORTENED]
        assert words == [event.message for event in told]
    assert [notice.data["name"] for notice in registry.webhooks.notices(ADMIN)] == ["ft_2", "ft_1"]


def test_what_a_replica_refused_is_told_once(registry: Registry) -> None:
    budget(registry, 0, is_hard=True)
    for turn in (1, 2):
        want = Want(id="l1", account="main", scope="user:admin", turn=turn, total_ucr=9, need_ucr=9, has_refused=True)
        registry.credits.renew("r1", [], [want])
        registry.credits.renew("r1", [], [want])
    assert types(registry) == ["budget.refused"]


def test_webhooks_get_what_they_want(registry: Registry, receiver: Receiver) -> None:
    add(registry, receiver.url, NoticeType.BALANCE_LOW)
    add(registry, receiver.url, NoticeType.BUDGET_PASSED, id="wh_2")
    budget(registry, 0)
    registry.ledger.append([make_record("a", amount_ucr=1)])
    assert deliver(registry) == 1
    (notice,) = registry.webhooks.notices(ADMIN)
    assert [state.webhook for state in notice.deliveries] == ["wh_2"]
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    assert deliver(registry) == 1
    assert json.loads(receiver.got[-1][1])["type"] == "luthier.webhook.test"


def test_a_server_that_wants_no_more(registry: Registry, receiver: Receiver) -> None:
    receiver.statuses = [410]
    add(registry, receiver.url)
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    deliver(registry)
    (webhook,) = registry.webhooks.show(ADMIN)
    assert webhook.ended_on is not None
    registry.webhooks.test(ADMIN, "wh_1", "n2")
    assert deliver(registry) == 0


def test_a_server_that_never_answers_is_given_up(registry: Registry, time: Clock, receiver: Receiver) -> None:
    receiver.hangs = True
    add(registry, receiver.url)
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    with mock.patch.object(posting, "MOST_SECONDS", 0.2):
        deliver(registry)
    (notice,) = registry.webhooks.notices(ADMIN)
    assert notice.deliveries[0].told == "no answer within 0.2 s"
    receiver.ends.set()
    receiver.shutdown()
    receiver.server_close()
    for pause in PAUSES_S:
        time.now += pause * 1000
        assert deliver(registry) == 1
    (notice,) = registry.webhooks.notices(ADMIN)
    assert notice.deliveries[0].given_up_on == time.now
    time.now += 10 * DAY_MS
    assert deliver(registry) == 0


def test_an_outcome_that_is_told_twice_counts_once(registry: Registry) -> None:
    add(registry, "https://example.com/")
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    (due,) = registry.outbox.due()
    for _ in range(2):
        registry.outbox.delivered(due.number, due.attempt, posting.Outcome(told="no"))
    (notice,) = registry.webhooks.notices(ADMIN)
    assert notice.deliveries[0].attempts == 1


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


def test_verbs_of_webhooks(registry: Registry, settings: Settings) -> None:
    first = registry.webhooks.add(ADMIN, "wh_1", "https://example.com/", None)
    assert registry.webhooks.add(ADMIN, "wh_1", "https://example.com/", None)[1] == first[1]
    assert add(registry, "https://example.com/", id="wh_2") != first[1]
    key = settings.home / "webhooks.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert first[1] not in str(registry.webhooks.show(ADMIN))
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    assert registry.webhooks.remove(ADMIN, "wh_1").id == "wh_1"
    assert registry.outbox.due() == []
    for call in (lambda: registry.webhooks.remove(ADMIN, "wh_1"), lambda: registry.webhooks.test(ADMIN, "wh_1", "n")):
        with pytest.raises(NotFound):
            call()
    ann = Caller(account="main", user="ANN", role="PUBLIC")
    with pytest.raises(NotAllowed):
        registry.webhooks.show(ann)
    for number in range(3, MAX_WEBHOOKS + 2):
        add(registry, "https://example.com/", id=f"wh_{number}")
    with pytest.raises(Conflict):
        add(registry, "https://example.com/", id="wh_more")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("255.255.255.255", "::1", "fe80::1", "fd00::1", "ff02::1", "::ffff:169.254.169.254", "::ffff:127.0.0.1"),
        *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
    ],
)
def test_what_no_webhook_may_reach(address: str) -> None:
    found = [(socket.AF_INET6 if ":" in address else socket.AF_INET, 0, 0, "", (address, 443))]
    public = [(socket.AF_INET, 0, 0, "", ("93.184.215.14", 443))]
    for answer in (found, [*public, *found]):
        with mock.patch.object(socket, "getaddrinfo", return_value=answer), pytest.raises(InvalidInput, match="public"):
            Addresses().check("https://hooks.example.com/")


def test_what_a_webhook_may_reach() -> None:
    public = [(socket.AF_INET, 0, 0, "", ("93.184.215.14", 443))]
    with mock.patch.object(socket, "getaddrinfo", return_value=public):
        assert Addresses().check("https://hooks.example.com/") == ["93.184.215.14"]
        with pytest.raises(InvalidInput, match="needs https"):
            Addresses().check("http://hooks.example.com/")
    assert LOCAL.check("http://127.0.0.1:8000/a") == ["127.0.0.1"]
    for url in ("ftp://a", "https://", "nothing", "https://u:p@a/", "https://a/#b", "https://a:x/"):
        with pytest.raises(InvalidInput, match="url: "):
            LOCAL.check(url)


def test_the_connection_goes_to_the_address_that_was_checked(registry: Registry, receiver: Receiver) -> None:
    add(registry, f"http://hooks.invalid:{receiver.server_port}/")
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.server_port))]
    real = socket.getaddrinfo

    def resolved(host: Any, *args: Any, **given: Any) -> Any:
        return answers if host == "hooks.invalid" else real(host, *args, **given)

    with mock.patch.object(socket, "getaddrinfo", side_effect=resolved) as asked:
        deliver(registry)
    assert [call.args[0] for call in asked.call_args_list].count("hooks.invalid") == 1
    ((headers, _),) = receiver.got
    assert headers["host"] == f"hooks.invalid:{receiver.server_port}"


def test_a_refused_address_is_not_asked(registry: Registry, receiver: Receiver) -> None:
    add(registry, receiver.url)
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    deliver(registry, Addresses())
    (notice,) = registry.webhooks.notices(ADMIN)
    assert "webhook_networks" in notice.deliveries[0].told
    assert receiver.got == []
