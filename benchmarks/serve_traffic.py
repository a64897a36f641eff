"""What the serving benchmark sends: which model each request asks for, and its text. Pure; the same for all sides."""

import random
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal

from luthier.platform.frozen import Frozen

Traffic = Literal["even", "skewed"]
TEXT = """the quick brown fox jumps over lazy dog what is answer to question forty two my card was lost on holiday and
bank does not know where please help me find out how much money left in account"""
LEAST_WORDS, MOST_WORDS = 8, 24
ROUNDS_OF_ALL = 2
"""At least so many requests for each that is under way at once."""
MOST_EACH = 32
"""At most so many: one after another they would take too long."""


class Point(Frozen):
    """One kind of load."""

    concurrency: int
    adapters: int
    """0: all ask for the base model."""
    traffic: Traffic
    streamed: bool

    @property
    def name(self) -> str:
        kinds = {0: "base model", 1: "1 adapter"}
        kind = kinds.get(self.adapters, f"{self.adapters} adapters")
        spread = f", {self.traffic}" if self.adapters > 1 else ""
        return f"{self.concurrency} at once, {kind}{spread}, {'streamed' if self.streamed else 'whole'}"

    def num_requests(self, asked: int) -> int:
        return max(ROUNDS_OF_ALL * self.concurrency, min(asked, MOST_EACH * self.concurrency))


def points(
    concurrency: Iterable[int], adapters: Iterable[int], traffic: Iterable[Traffic], streamed: Iterable[bool]
) -> list[Point]:
    """Every combination once: up to one adapter all traffic is even."""
    found = product(streamed, adapters, traffic, concurrency)
    made = (Point(concurrency=c, adapters=a, traffic=t if a > 1 else "even", streamed=s) for s, a, t, c in found)
    return list(dict.fromkeys(made))


def asked_models(names: Sequence[str], traffic: Traffic, num: int, seed: int) -> list[str]:
    """A name for each request: all equally often, or the k-th as often as 1/k (Zipf); in an order of no meaning."""
    chance = random.Random(seed)
    if traffic == "skewed":
        return chance.choices(names, [1 / rank for rank in range(1, len(names) + 1)], k=num)
    asked = [names[at % len(names)] for at in range(num)]
    chance.shuffle(asked)
    return asked


def texts(num: int, lead: int, seed: int) -> list[str]:
    """Messages; those of another `lead` differ in their first letter alone, so that no cached prefix serves two."""
    chance, words = random.Random(seed), TEXT.split()
    lengths = (chance.randint(LEAST_WORDS, MOST_WORDS) for _ in range(num))
    return [f"{lead % 10} {' '.join(chance.choices(words, k=length))}" for length in lengths]
