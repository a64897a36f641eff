"""An engine of vLLM in this process, and how it is asked."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from luthier.errors import AdapterRefused
from luthier.platform.base_models import BaseModel
from luthier.platform.models import ModelVersion, Proof
from luthier.platform.wire import Choice, ToolCall
from luthier.serve.adapters.disk import LocalDisk
from luthier.serve.adapters.loading import Surroundings
from luthier.serve.complete import Tally
from luthier.serve.engines.engine import VllmEngine
from luthier.serve.many import Many
from tests.fakes import make_ask

PLACES = 16
"""The engine's max_num_seqs."""
Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""On the engine's own event loop."""


class Asked:
    """The engine with short words for asking it, and what it reported of adapters."""

    def __init__(self, base: BaseModel, base_dir: Path, disk: LocalDisk | None = None) -> None:
        self.base_dir = base_dir
        self.reports: dict[int, Proof] = {}
        self.engine = VllmEngine(base, base_dir, False, Surroundings(self.reports.__setitem__, disk))

    async def close(self) -> None:
        """Sockets and all: what vLLM leaves open may hold the process at its end."""
        self.engine._engine.shutdown()

    def ask(self, verb: str, tally: Tally, adapter: ModelVersion | None = None, **given: Any) -> Any:
        fields = {"prompt": "the fox", "max_tokens": 8, "ignore_eos": True, "temperature": 1.0}
        return getattr(Many(self.engine), verb)(make_ask(**{**fields, **given}), adapter, tally)

    async def whole(self, **given: Any) -> Choice:
        """The first choice."""
        choices: list[Choice] = await self.ask("whole", Tally(), **given)
        return choices[0]

    async def streamed(self, tally: Tally, **given: Any) -> list[Choice]:
        pieces: dict[int, list[Choice]] = {}
        async for choices in self.ask("stream", tally, **given):
            for choice in choices:
                pieces.setdefault(choice.index, []).append(choice)
        return [joined(pieces[index]) for index in sorted(pieces)]

    async def answer(self, adapter: ModelVersion | None, **given: Any) -> str:
        """The same each time."""
        (choice,) = await self.ask("whole", Tally(), adapter, seed=5, max_tokens=16, **given)
        return str(choice.text)

    async def refusal(self, adapter: ModelVersion) -> str:
        """Of that adapter alone: nothing is counted, and the engine answers on."""
        with pytest.raises(AdapterRefused) as caught:
            await self.ask("whole", tally := Tally(), adapter)
        assert tally == Tally()
        assert await self.answer(None)
        assert caught.value.message.startswith(f"Model {adapter.model} ")
        return caught.value.message

    async def reported(self, adapter: ModelVersion) -> Proof:
        while adapter.number not in self.reports:
            await asyncio.sleep(0.01)
        return self.reports[adapter.number]

    def check_idle(self) -> None:
        assert self.engine._engine.get_num_unfinished_requests() == 0

    async def made_more_than(self, num_tokens: int) -> None:
        """Until vLLM has made so many, whoever took them."""
        states = self.engine._engine.output_processor.request_states
        while sum(state.detokenizer.num_output_tokens() for state in states.values()) <= num_tokens:
            assert states
            await asyncio.sleep(0.001)


def joined(pieces: list[Choice]) -> Choice:
    logprobs = [each for piece in pieces for each in piece.logprobs or ()]
    calls: dict[int, ToolCall] = {}
    for call in (call for piece in pieces for call in piece.tool_calls or ()):
        first = calls.get(call.index)
        whole = first.arguments + call.arguments if first else call.arguments
        calls[call.index] = (first or call).model_copy(update={"arguments": whole})
    return Choice(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        finish_reason=pieces[-1].finish_reason,
        tool_calls=list(calls.values()) or None,
        logprobs=logprobs or None,
    )


@contextmanager
def started(base: BaseModel, base_dir: Path, disk: LocalDisk | None = None) -> Iterator[tuple[Asked, Run]]:
    """An engine, and the way onto its event loop, until it is closed."""

    async def start() -> Asked:
        return Asked(base, base_dir, disk)

    with mock.patch.dict(os.environ), asyncio.Runner() as runner:
        asked = runner.run(start())
        yield asked, runner.run
        runner.run(asked.close())
