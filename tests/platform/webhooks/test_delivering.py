"""Notices reach their webhooks at last, signed."""

import json
from unittest import mock

import pytest
from standardwebhooks import Webhook as Verifier

from luthier.errors import Conflict, NotAllowed, NotFound
from luthier.platform import posting
from luthier.platform.access import Caller
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.webhooks import (
    MAX_WEBHOOKS,
    PAUSES_S,
    NoticeType,
    Outcome,
)
from tests.factories import ADMIN, make_record
from tests.fakes import Clock, Launcher
from tests.platform.webhooks.outbox import DAY_MS, add, budget, deliver
from tests.receiver import Receiver

pytestmark = pytest.mark.stores


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
        registry.outbox.delivered(due.number, due.attempt, Outcome(told="no"))
    (notice,) = registry.webhooks.notices(ADMIN)
    assert notice.deliveries[0].attempts == 1


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
