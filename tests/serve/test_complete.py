"""One completion: what was counted is settled, however it ends, and the engine is told at once."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from luthier.errors import ContextTooLong, InvalidInput, LuthierError, Overloaded, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.metering import UsageRecord
from luthier.platform.models import Resolved
from luthier.platform.prices import load_prices
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.wire import Chunk
from luthier.serve import complete, patience
from luthier.serve.admission import Admission
from luthier.serve.asks import Ask
from luthier.serve.complete import Completer
from luthier.serve.many import Many
from luthier.serve.metering.usage import UsageSpool
from tests.factories import ADMIN
from tests.fakes import Books, EchoEngine, make_ask
from tests.full_disk import full_disk

TINY = Resolved(name="tiny", base_model="tiny")


class Names:
    """Each name is what it is told to be."""

    def __init__(self) -> None:
        self.resolved = TINY

    async def resolve(self, *_about: object) -> Resolved:
        return self.resolved


class Door:
    """A completer over an engine that echoes, and what it settled."""

    def __init__(self, settings: Settings) -> None:
        self.engine, self.names = EchoEngine(context=20), Names()
        self.settled: list[UsageRecord] = []
        prices = load_prices(configs_dir() / "prices.toml")
        base = load_catalog(settings).get("tiny")
        self.books = Books(self.settled.append)
        self._completer = Completer(base, self.names, Many(self.engine), prices, self.books)

    def whole(self, prompt: str, **given: object) -> Coroutine[None, None, Chunk]:
        return self._completer.whole(make_ask(prompt=prompt, **given))

    def stream(self, prompt: str, **given: object) -> AsyncGenerator[Chunk, None]:
        return self._completer.stream(make_ask(prompt=prompt, **given))

    def many(self, *prompts: str) -> Coroutine[None, None, list[Chunk | LuthierError]]:
        return self._completer.many([make_ask(prompt=prompt) for prompt in prompts])

    async def streamed(self, prompt: str, **given: object) -> list[Chunk]:
        return [chunk async for chunk in self.stream(prompt, **given)]

    @property
    def admission(self) -> Admission:
        return self._completer.admission

    @property
    def counts(self) -> list[tuple[int, int]]:
        return [(record.prompt_tokens, record.completion_tokens) for record in self.settled]


@pytest.fixture
def door(settings: Settings) -> Door:
    return Door(settings)


@pytest.fixture(params=["whole", "streamed"])
def verb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(door: Door, verb: str, prompt: str, **given: object) -> None:
    asyncio.run(getattr(door, verb)(prompt, **given))


def test_a_whole_answer(door: Door) -> None:
    answer = asyncio.run(door.whole("a b c"))
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [
        (0, "base: a b c", "stop")
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


def test_a_streamed_answer(door: Door) -> None:
    chunks = asyncio.run(door.streamed("a b c"))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "base: a b c"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 4
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 4)


def test_what_is_settled(door: Door, verb: str) -> None:
    run(door, verb, "a b c")
    (record,) = door.settled
    assert (record.source_id, record.function, record.model, record.user) == ("req_1", "COMPLETE", "tiny", "admin")
    assert door.counts == [(3, 4)]


def test_many_answers_to_one_prompt_count_it_once(door: Door, verb: str) -> None:
    run(door, verb, "a b", n=3)
    assert door.counts == [(2, 9)]


def test_a_client_that_leaves_a_stream_pays_for_what_was_made(door: Door) -> None:
    async def leave_after_two() -> None:
        chunks = door.stream("a b c")
        await anext(chunks)
        await anext(chunks)
        await chunks.aclose()
        assert door.engine.num_open == 0

    asyncio.run(leave_after_two())
    assert door.counts == [(3, 2)]


@pytest.mark.parametrize("num_made", [0, 2])
def test_a_cancelled_task_pays_too(door: Door, verb: str, num_made: int) -> None:
    async def cancelled() -> None:
        door.engine.hangs_after = num_made
        task = asyncio.create_task(getattr(door, verb)("a b c"))
        while not door.engine.num_open:
            assert not task.done()
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert door.engine.num_open == 0

    asyncio.run(cancelled())
    assert door.counts == [(3, num_made)]


def test_an_engine_that_dies_is_settled_up_to_there(door: Door, verb: str) -> None:
    door.engine.dies_after = 2
    with pytest.raises(Unavailable, match="stopped while it answered"):
        run(door, verb, "a b c")
    assert door.counts == [(3, 2)]
    assert door.engine.num_open == 0


def test_whatever_happens_it_is_written_down_once(door: Door, verb: str) -> None:
    run(door, verb, "a b c")
    door.engine.dies_after = 1
    with pytest.raises(Unavailable):
        run(door, verb, "a b c")
    door.books.is_full = True
    with pytest.raises(Unavailable, match="ledger"):
        run(door, verb, "a b c")
    assert [line["status"] for line in door.books.lines] == [200, 503, 503]
    assert [line["completion_tokens"] for line in door.books.lines] == [4, 1, 0]
    assert [line["finish"] for line in door.books.lines] == ["stop", None, None]
    assert len(door.engine.requests) == 2


def test_a_full_disk_fails_no_answer_that_is_billed(door: Door, verb: str, tmp_path: Path) -> None:
    spool = UsageSpool(tmp_path, lambda records: len(door.settled.extend(records) or records))
    with mock.patch.multiple(door.books, settle=spool.settle, check=spool.check), full_disk():
        run(door, verb, "a b c")
        with pytest.raises(Unavailable, match="disk takes no usage"):
            run(door, verb, "d e")
        with pytest.raises(OSError, match="File too large"):
            spool.flush()
    assert door.counts == [(3, 4)]
    assert [(line["status"], line["completion_tokens"]) for line in door.books.lines] == [(200, 4), (503, 0)]


@pytest.mark.parametrize("dies_after", [0, None])
def test_nothing_counted_is_nothing_settled(door: Door, verb: str, dies_after: int | None) -> None:
    door.engine.dies_after = dies_after
    with pytest.raises((Unavailable, ContextTooLong)):
        run(door, verb, "a", max_tokens=3 if dies_after == 0 else 20)
    assert door.settled == []


@pytest.mark.parametrize("dies_after", [None, 2])
def test_nothing_of_a_request_waits_for_the_search_for_cycles(door: Door, verb: str, dies_after: int | None) -> None:
    door.engine.dies_after = dies_after

    async def ask() -> "weakref.ref[Ask]":
        with suppress(Unavailable):
            await getattr(door, verb)("a b c")
        return weakref.ref(door.engine.asks.pop())

    gc.disable()
    try:
        assert asyncio.run(ask())() is None
    finally:
        gc.enable()


def test_a_model_of_another_base_is_refused(door: Door, verb: str) -> None:
    door.names.resolved = Resolved(name="t", base_model="other")
    with pytest.raises(InvalidInput, match="stands on other, not on tiny"):
        run(door, verb, "a")
    assert door.engine.requests == []


def test_each_choice_of_each_prompt_has_a_place(door: Door, verb: str) -> None:
    place = mock.Mock(wraps=door.admission.place)
    with mock.patch.object(door.admission, "place", place):
        run(door, verb, "a", prompts=["b", "c"], n=3)
    place.assert_called_once_with(ADMIN.account, 6)


def test_many_end_each_in_its_own_way(door: Door) -> None:
    first, second, third = asyncio.run(door.many("a b", "too long " * 20, "c"))
    assert isinstance(first, Chunk)
    assert isinstance(third, Chunk)
    assert isinstance(second, ContextTooLong)
    assert [chunk.choices[0].text for chunk in (first, third)] == ["base: a b", "base: c"]
    assert sorted(door.counts) == [(1, 2), (2, 3)]


def test_one_that_waits_for_its_place_is_written_down_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    with ExitStack() as held:
        held.enter_context(door.admission.place(ADMIN.account, 600))

        async def pause(seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 3:
                held.close()

        monkeypatch.setattr(patience, "asyncio", SimpleNamespace(sleep=pause))
        (answer,) = asyncio.run(door.many("a b"))
    assert isinstance(answer, Chunk)
    assert len(tries) == 3
    assert [(line["status"], line["completion_tokens"]) for line in door.books.lines] == [(200, 3)]


def test_one_that_gets_no_place_in_time_is_written_down_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete, "PATIENCE_SECONDS", 0.0)
    with door.admission.place(ADMIN.account, 600):
        (refused,) = asyncio.run(door.many("a b"))
    assert isinstance(refused, Overloaded)
    assert [(line["status"], line["error"]) for line in door.books.lines] == [(429, "overloaded")]


def test_who_leaves_many_pays_for_what_was_made(door: Door) -> None:
    async def leave() -> None:
        door.engine.hangs_after = 2
        task = asyncio.create_task(door.many("a b", "c d e"))
        while door.engine.num_open < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert door.engine.num_open == 0
    assert sorted(door.counts) == [(2, 2), (3, 2)]
