"""Limits and webhooks on a real cluster: through its doors, in its replicas, and over a killed registry."""

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from standardwebhooks import Webhook as Verifier

from luthier.serve.metering.leasing import RENEW_SECONDS
from tests.e2e.live import BASE, REGISTRY, SECONDS, LiveCluster, until
from tests.receiver import receiving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LIMIT = 6
ASK = {"model": BASE, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
HANGING_SECONDS = 4.0
"""Where the registry is back at once; where that takes long, the machine is slow in all."""


def limit_told(cluster: LiveCluster) -> tuple[int, int] | None:
    """And what is left of it, as an answer's headers have them."""
    raw = cluster.openai.chat.completions.with_raw_response.create(**ASK)
    told = [raw.headers.get(f"x-ratelimit-{name}-requests") for name in ("limit", "remaining")]
    return (int(told[0]), int(told[1])) if told[0] and told[1] else None


def test_a_minute_has_no_more_than_its_limit(cluster: LiveCluster) -> None:
    """Nor less, however many minutes a slow machine takes to come to its end."""
    assert limit_told(cluster) is None
    cluster.client.limits.set(model=BASE, requests=LIMIT)
    minute = time.time() // 60
    try:
        limit, left = until(lambda: limit_told(cluster), SECONDS, "the limit")  # where that one was under it, one less
        assert LIMIT - 1 <= left <= limit == LIMIT
        num, refused = asked_until_refused(cluster)
        assert left <= num <= left + LIMIT * (time.time() // 60 - minute)
        assert 1 <= int(refused.response.headers["retry-after"]) <= 60
        message = until(lambda: refusal_of_the_gateway(cluster), SECONDS, "a refusal by the gateway")
        assert message[:17] == "too many requests"
    finally:
        cluster.client.limits.unset(model=BASE)
    until(lambda: is_free(cluster), SECONDS, "the end of the limit")


def asked_until_refused(cluster: LiveCluster) -> tuple[int, openai.RateLimitError]:
    """How often it was answered before."""
    for num in range(1_000):
        try:
            cluster.openai.chat.completions.create(**ASK)
        except openai.RateLimitError as error:
            return num, error
    raise AssertionError("never refused")


def refusal_of_the_gateway(cluster: LiveCluster) -> str | None:
    """None where the next minute has begun: its requests are used up first."""
    answer = cluster.client._http.post("/api/v2/cortex/inference:complete", json={**ASK, "stream": False})
    message: str | None = answer.json()["message"] if answer.status_code == 429 else None
    return message


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
        door.chat.completions.create(**ASK)
    slowest, num = 0.0, 0
    with ThreadPoolExecutor() as beside:
        cluster.kill(REGISTRY)
        killed = time.monotonic()
        back = beside.submit(cluster.client.credits.balance, "thrifty")
        while not back.done():
            began = time.monotonic()
            door.chat.completions.create(**ASK)
            slowest, num = max(slowest, time.monotonic() - began), num + 1
    away = time.monotonic() - killed
    print(f"{num} answers in {away:.2f} s without a registry, the slowest took {slowest:.2f} s")
    assert back.result()["is_limited"]
    assert num > 1
    assert slowest < max(HANGING_SECONDS, away / 2)


def test_a_killed_registry_delivers_what_it_had_noticed(cluster: LiveCluster) -> None:
    with receiving(500) as receiver:
        webhook = cluster.client.webhooks.add(receiver.url)
        notice = cluster.client.webhooks.test(webhook["id"])
        until(lambda: told(cluster)["attempts"], SECONDS, "the first attempt")
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
