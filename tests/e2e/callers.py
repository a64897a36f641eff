"""Clients that ask without an end, and what became of each of their requests."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from openai import OpenAI

from tests.e2e.live import SECONDS, LiveCluster, until

Ask = Callable[[OpenAI], Any]
ON: dict[str, Any] = {"extra_body": {"ignore_eos": True}}
"""Lets an answer have all the tokens that it may."""


class Outcome(NamedTuple):
    """Of one request."""

    began: float
    error: Exception | None


class Callers:
    """One thread and one client each, without retries: a request, a pause, the next one."""

    def __init__(self, cluster: LiveCluster, asks: Sequence[Ask], pause: float) -> None:
        self.outcomes: list[list[Outcome]] = [[] for _ in asks]
        self._cluster, self._pause, self._stopping = cluster, pause, threading.Event()
        each = zip(asks, self.outcomes, strict=True)
        self._threads = [threading.Thread(target=self._call, args=pair, daemon=True) for pair in each]

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for own in self.outcomes for outcome in own if outcome.error]

    @property
    def num_answered(self) -> int:
        return sum(map(len, self.outcomes)) - len(self.failed)

    def wait(self) -> None:
        """Until each has had an answer from now on."""
        seen = [len(own) for own in self.outcomes]

        def all_again() -> bool:
            news = [own[before:] for own, before in zip(self.outcomes, seen, strict=True)]
            return all(any(outcome.error is None for outcome in some) for some in news)

        until(all_again, SECONDS, "an answer to each caller")

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Once the last answers are there."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in self._threads), "a request that never ends"

    def _call(self, ask: Ask, outcomes: list[Outcome]) -> None:
        with OpenAI(
            base_url=f"{self._cluster.url}/v1", api_key=self._cluster.key, max_retries=0, timeout=SECONDS
        ) as client:
            while not self._stopping.wait(self._pause):
                began, error = time.monotonic(), None
                try:
                    ask(client)
                except Exception as caught:
                    error = caught
                outcomes.append(Outcome(began, error))


@contextmanager
def calling(cluster: LiveCluster, *asks: Ask, pause: float = 0.0) -> Iterator[Callers]:
    """They call while the block runs."""
    callers = Callers(cluster, asks, pause)
    callers.start()
    try:
        yield callers
    finally:
        callers.stop()


def whole(model: str, num_tokens: int) -> Ask:
    def ask(client: OpenAI) -> None:
        done = client.completions.create(model=model, prompt="the", max_tokens=num_tokens, **ON)
        assert done.usage
        assert done.usage.completion_tokens == num_tokens

    return ask


def streamed(model: str, num_tokens: int) -> Ask:
    def ask(client: OpenAI) -> None:
        *_, last = client.completions.create(
            model=model,
            prompt="the",
            max_tokens=num_tokens,
            stream=True,
            stream_options={"include_usage": True},
            **ON,
        )
        assert last.usage
        assert last.usage.completion_tokens == num_tokens

    return ask


def in_turn(*asks: Ask) -> Ask:
    turns = itertools.cycle(asks)

    def ask(client: OpenAI) -> None:
        next(turns)(client)

    return ask


def by_sql(cluster: LiveCluster, model: str, num_tokens: int) -> Ask:
    """By way of the gateway."""
    call = f"SNOWFLAKE.CORTEX.COMPLETE('{model}', 'the', {{'max_tokens': {num_tokens}}})"

    def ask(_client: OpenAI) -> None:
        (row,) = cluster.sql(f"SELECT {call} AS answer")
        assert row["answer"]

    return ask
