"""Limits and webhooks on a real cluster: through its doors, in its replicas, and over a killed registry."""

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from standardwebhooks import Webhook as Verifier

from luthier.serve.leasing import RENEW_SECONDS
from tests.e2e.live import BASE, REGISTRY, SECONDS, LiveCluster, until
from tests.receiver import receiving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LIMIT = 6
ASK = {"model": BASE, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
KNOWN_SECONDS = 15.0
HANGING_SECONDS = 4.0
"""With a machine's own slowness."""


def limit_told(cluster: LiveCluster) -> str | None:
    """As an answer's header has it."""
    raw = cluster.openai.chat.completions.with_raw_response.create(**ASK)  # type: ignore[call-overload]
    told: str | None = raw.headers.get("x-ratelimit-limit-requests")
    return told


def test_a_minute_has_no_more_than_its_limit(cluster: LiveCluster) -> None:
    assert limit_told(cluster) is None
    if time.time() % 60 > 45:
        time.sleep(61 - time.time() % 60)
    minute = time.time() // 60
    cluster.client.limits.set(model=BASE, requests=LIMIT)
    until(lambda: limit_told(cluster) == str(LIMIT), KNOWN_SECONDS, "the limit")  # this one was under it
    num, refused = asked_until_refused(cluster)
    assert num == LIMIT - 1
    assert 1 <= int(refused.response.headers["retry-after"]) <= 60
    gateway = cluster.client._http.post("/api/v2/cortex/inference:complete", json={**ASK, "stream": False})
    assert (gateway.status_code, gateway.json()["message"][:17]) == (429, "too many requests")
    assert time.time() // 60 == minute, "the machine is too slow for this test"
    cluster.client.limits.unset(model=BASE)
    until(lambda: is_free(cluster), KNOWN_SECONDS, "the end of the limit")


def asked_until_refused(cluster: LiveCluster) -> tuple[int, openai.RateLimitError]:
    """How often it was answered before."""
    for num in range(1_000):
        try:
            cluster.openai.chat.completions.create(**ASK)  # type: ignore[call-overload]
        except openai.RateLimitError as error:
            return num, error
    raise AssertionError("never refused")


def is_free(cluster: LiveCluster) -> bool:
    try:
        return limit_told(cluster) is None
    except openai.RateLimitError:
        return False


def test_who_is_known_is_answered_while_the_registry_is_killed(cluster: LiveCluster) -> None:
    """Of an account with a balance: no completion fails, and none hangs."""
    account = cluster.client.accounts.create("thrifty")
    cluster.client.credits.top_up("1", account="thrifty")
    door = cluster.openai.with_options(api_key=account["api_key"])
    began = time.monotonic()
    while time.monotonic() < began + 3 * RENEW_SECONDS:  # a lease has room for the pace of the last renewals
        door.chat.completions.create(**ASK)  # type: ignore[call-overload]
    slowest, num = 0.0, 0
    with ThreadPoolExecutor() as beside:
        cluster.kill(REGISTRY)
        back = beside.submit(cluster.client.credits.balance, "thrifty")
        while not back.done():
            began = time.monotonic()
            door.chat.completions.create(**ASK)  # type: ignore[call-overload]
            slowest, num = max(slowest, time.monotonic() - began), num + 1
    print(f"{num} answers without a registry, the slowest took {slowest:.2f} s")
    assert back.result()["is_limited"]
    assert num > 1
    assert slowest < HANGING_SECONDS


def test_a_killed_registry_delivers_what_it_had_noticed(cluster: LiveCluster) -> None:
    with receiving(500) as receiver:
        webhook = cluster.client.webhooks.add(receiver.url)
        notice = cluster.client.webhooks.test(webhook["id"])
        until(lambda: receiver.got, SECONDS, "the first attempt")
        cluster.kill(REGISTRY)
        until(lambda: len(receiver.got) == 2, SECONDS, "the second attempt")
    for headers, body in receiver.got:
        assert headers["webhook-id"] == notice["id"]
        assert Verifier(webhook["secret"]).verify(body, headers)["type"] == "luthier.webhook.test"
    until(lambda: told(cluster)["taken_on"], SECONDS, "what became of it")
    assert told(cluster)["attempts"] == 2
    cluster.client.webhooks.remove(webhook["id"])


def told(cluster: LiveCluster) -> dict[str, object]:
    state: dict[str, object] = cluster.client.webhooks.notices()[0]["deliveries"][0]
    return state
