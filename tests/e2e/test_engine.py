"""vLLM itself on the tiny model: tokens are counted to the last one, whatever ends the generation."""

import asyncio
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from luthier.platform.base_models import load_catalog
from luthier.platform.settings import Settings
from luthier.platform.wire import Choice, CompleteRequest
from luthier.serve.complete import Tally
from luthier.serve.engine import VllmEngine
from tests.e2e.live import TOML
from tests.factories import make_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LONG = 480
"""Tokens of an answer that nobody waits for; the context has 512."""


class Asked:
    """The engine with short words for asking it."""

    def __init__(self, settings: Settings, base_dir: Path) -> None:
        self.engine = VllmEngine(load_catalog(settings).get("tiny"), base_dir, use_gpu=False)

    def ask(self, verb: str, tally: Tally, **given: Any) -> Any:
        fields = {"model": "tiny", "prompt": "the fox", "max_tokens": 8, "ignore_eos": True, "temperature": 1.0}
        return getattr(self.engine, verb)("req", CompleteRequest(**{**fields, **given}), None, tally)

    async def streamed(self, tally: Tally, **given: Any) -> list[Choice]:
        texts: dict[int, str] = {}
        finish: dict[int, str | None] = {}
        async for choices in self.ask("stream", tally, **given):
            for choice in choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
                finish[choice.index] = choice.finish_reason
        return [Choice(index=index, text=texts[index], finish_reason=finish[index]) for index in sorted(texts)]

    def check_idle(self) -> None:
        assert self.engine._engine.get_num_unfinished_requests() == 0


def test_every_token_is_counted(home: Path, tiny_model: Path) -> None:
    async def checks() -> None:
        settings = make_settings(home, tiny_model)
        (home / "base_models" / "tiny.toml").write_text(TOML.format(path=tiny_model))
        asked = Asked(settings, tiny_model)
        try:
            await whole_and_streamed_are_alike(asked)
            for n in (1, 2):
                await a_client_leaves_a_stream(asked, n)
                await a_client_leaves_before_the_whole_answer(asked, n)
                await a_client_leaves_at_any_moment(asked, n)
        finally:
            asked.engine.kill()

    with mock.patch.dict(os.environ):
        asyncio.run(checks())


async def whole_and_streamed_are_alike(asked: Asked) -> None:
    for given in ({"temperature": 0}, {"n": 3, "seed": 5}, {"temperature": 0, "stop": ["e"], "max_tokens": 60}):
        tallies = Tally(), Tally()
        assert await asked.ask("whole", tallies[0], **given) == await asked.streamed(tallies[1], **given)
        assert tallies[0] == tallies[1]
    assert (await asked.ask("whole", tally := Tally(), n=3))[2].finish_reason == "length"
    assert tally.completion == 24


async def a_client_leaves_a_stream(asked: Asked, n: int) -> None:
    tally = Tally()
    stream = asked.ask("stream", tally, max_tokens=LONG, n=n)
    for _ in range(5):
        await anext(stream)
    handed_over = tally.completion
    await asyncio.sleep(0.05)
    await stream.aclose()
    assert 5 <= handed_over < tally.completion < LONG * n
    asked.check_idle()


async def a_client_leaves_before_the_whole_answer(asked: Asked, n: int) -> None:
    task = asyncio.create_task(asked.ask("whole", tally := Tally(), max_tokens=LONG, n=n))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tally.prompt > 0
    assert 0 < tally.completion < LONG * n
    asked.check_idle()


async def a_client_leaves_at_any_moment(asked: Asked, n: int) -> None:
    """Before vLLM has the request, in the middle, and when the answer is there but not yet taken."""
    for num_steps in (*range(12), *range(12, 200, 20)):
        task = asyncio.create_task(asked.ask("whole", tally := Tally(), n=n))
        for _ in range(num_steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert 0 <= tally.completion <= 8 * n
        asked.check_idle()
    await asked.ask("whole", tally := Tally(), n=n)
    assert tally.completion == 8 * n
