"""What is known: true for an epoch, asked again beside the requests, bounded, and never older than it may be."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from luthier.errors import LuthierError, NotFound, Unavailable
from luthier.serve import known
from luthier.serve.known import AGAIN_SECONDS, QUIET_SECONDS, Epoch, Known
from tests.fakes import Clock
from tests.waiting import SECONDS

FRESH = 1.0


class Source:
    """A registry of words: each change makes another epoch."""

    def __init__(self) -> None:
        self.words: dict[str, str | LuthierError] = {}
        self.epoch = "0"
        self.asked: list[str] = []
        self.again: list[Sequence[str]] = []
        self.may_answer_again = threading.Event()
        self.may_answer_again.set()

    def says(self, **words: str | LuthierError) -> None:
        self.words |= words
        self.epoch = str(int(self.epoch) + 1)

    def ask(self, key: str) -> str:
        self.asked.append(key)
        word = self._word(key)
        if isinstance(word, LuthierError):
            raise word
        return word

    def ask_again(self, keys: Sequence[str]) -> list[str | LuthierError]:
        self.again.append(keys)
        words = [self._word(key) for key in keys]
        assert self.may_answer_again.wait(20)
        return words

    def _word(self, key: str) -> str | LuthierError:
        return self.words.get(key, NotFound("nothing"))


class Scene:
    """What is known of a source, while the epoch is asked all the time."""

    def __init__(self) -> None:
        self.source, self.clock = Source(), Clock()
        self.epoch = Epoch(lambda: self.source.epoch, self.clock)
        self.known: Known[str, str] = Known(self.epoch, self.source.ask, self.source.ask_again, FRESH)

    async def passes(self, seconds: float) -> None:
        """And the epoch is heard at the end."""
        self.clock.now += seconds
        await until(lambda: self.epoch._heard == self.clock.now)

    def play(self, story: Callable[["Scene"], Awaitable[None]]) -> None:
        async def run() -> None:
            await story(self)

        asyncio.run(run())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.001)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(known, "EACH_SECONDS", 0.001)
    return Scene()


def test_after_a_change_all_are_asked_again_in_one_question(scene: Scene) -> None:
    async def story(scene: Scene) -> None:
        scene.source.says(a="1", b="2")
        assert [await scene.known.get(key) for key in "ab"] == ["1", "2"]
        await scene.passes(100)
        assert scene.source.again == []
        scene.source.says(a="3")
        await scene.passes(FRESH)
        await until(lambda: len(scene.source.again) == 1)
        assert [await scene.known.get(key) for key in "ab"] == ["3", "2"]
        assert (scene.source.asked, scene.source.again) == (["a", "b"], [["b", "a"]])

    scene.play(story)


def test_who_comes_before_his_turn_asks_himself(scene: Scene) -> None:
    async def story(scene: Scene) -> None:
        scene.source.says(a="1")
        assert await scene.known.get("a") == "1"
        scene.source.may_answer_again.clear()
        scene.source.says(a="2")
        await scene.passes(FRESH)
        await until(lambda: len(scene.source.again) == 1)
        scene.source.says(a="3")
        await scene.passes(FRESH)
        assert await scene.known.get("a") == "3"
        scene.source.may_answer_again.set()  # with the 2 of before
        await until(lambda: len(scene.source.again) == 1 or scene.source.again[-1] == ["a"])
        await scene.passes(FRESH)
        assert await scene.known.get("a") == "3"

    scene.play(story)


def test_a_refusal_ends_what_was_known_and_one_who_is_away_does_not(scene: Scene) -> None:
    async def story(scene: Scene) -> None:
        scene.source.says(a="1", b="1")
        assert [await scene.known.get(key) for key in "ab"] == ["1", "1"]
        scene.source.says(a=NotFound("dropped"), b=Unavailable("away"))
        await scene.passes(FRESH)
        await until(lambda: len(scene.known) == 1)
        with pytest.raises(NotFound, match="dropped"):
            await scene.known.get("a")
        with pytest.raises(Unavailable):
            await scene.known.get("b")
        scene.source.says(b="2")
        assert await scene.known.get("b") == "2"

    scene.play(story)


def test_a_miss_is_asked_each_time(scene: Scene) -> None:
    async def story(scene: Scene) -> None:
        for _ in range(2):
            with pytest.raises(NotFound):
                await scene.known.get("a")
        scene.source.says(a="1")
        assert await scene.known.get("a") == "1"

    scene.play(story)


def test_many_are_asked_again_in_portions_the_latest_first(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "PORTION", 2)

    async def story(scene: Scene) -> None:
        scene.source.says(**dict.fromkeys("abcde", "1"))
        for key in "abcdea":
            await scene.known.get(key)
        scene.source.says(a="2")
        await scene.passes(FRESH)
        await until(lambda: len(scene.source.again) == 3)
        assert scene.source.again == [["a", "e"], ["d", "c"], ["b"]]

    scene.play(story)


def test_the_memory_is_bounded_and_keeps_who_asked_last(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_KNOWN", 2)

    async def story(scene: Scene) -> None:
        scene.source.says(**dict.fromkeys("abcd", "1"))
        for key in "abacadad":
            await scene.known.get(key)
        assert len(scene.known) == 2
        assert scene.source.asked == ["a", "b", "c", "d"]

    scene.play(story)


def test_the_old_is_asked_again_though_nothing_changed(scene: Scene) -> None:
    """Whoever writes past the registry is heard of some day."""

    async def story(scene: Scene) -> None:
        scene.source.says(a="1")
        await scene.known.get("a")
        scene.source.words["a"] = "2"
        await scene.passes(AGAIN_SECONDS - 1)
        assert await scene.known.get("a") == "1"
        await scene.passes(1)
        await until(lambda: scene.source.again != [])
        await until(lambda: scene.epoch._catching_up is None or scene.epoch._catching_up.done())
        assert await scene.known.get("a") == "2"
        assert scene.source.asked == ["a"]

    scene.play(story)


def test_the_epoch_rests_where_nobody_asks(scene: Scene) -> None:
    async def story(scene: Scene) -> None:
        scene.source.says(a="1")
        await scene.known.get("a")
        keeping = scene.epoch._keeping
        assert keeping
        scene.clock.now += QUIET_SECONDS
        await asyncio.wait_for(keeping, SECONDS)
        scene.source.says(a="2")
        assert await scene.known.get("a") == "2"

    scene.play(story)


def test_a_loop_that_ends_in_between(scene: Scene) -> None:
    scene.source.says(a="1")
    assert asyncio.run(scene.known.get("a")) == "1"
    scene.clock.now += FRESH
    assert asyncio.run(scene.known.get("a")) == "1"
    scene.source.says(a="2")
    scene.clock.now += FRESH
    assert asyncio.run(scene.known.get("a")) == "2"


def test_an_answer_to_a_question_that_is_older_than_may_be_is_none() -> None:
    """One was on its way when somebody came."""
    source, clock, is_asked, may_answer = Source(), Clock(), threading.Event(), threading.Event()

    def ask() -> str:
        epoch = source.epoch
        is_asked.set()
        assert may_answer.wait(20)
        return epoch

    async def story() -> bool:
        epoch = Epoch(ask, clock)
        asked = epoch._hear()
        await until(is_asked.is_set)
        source.says(a="2")
        clock.now += FRESH
        asyncio.get_running_loop().call_later(0.01, may_answer.set)
        return await epoch.holds("0", FRESH) and asked.done()

    assert asyncio.run(story()) is False


def test_a_registry_that_is_slow_is_waited_for(scene: Scene) -> None:
    """It changed meanwhile: as long as it answers, nothing older than FRESH is given."""

    async def story(scene: Scene) -> None:
        scene.source.says(a="1")
        await scene.known.get("a")
        scene.source.says(a="2")
        scene.clock.now += FRESH
        assert await scene.known.get("a") == "2"

    scene.play(story)
