"""vLLM with each layer of the tiny model shared by two processes: it answers, proves and refuses as one process does,
and adapters come and go in both. In float32, against transformers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from luthier.errors import Unavailable
from luthier.platform.data.prompts import load_prompts
from luthier.platform.models import ModelVersion, ProofState
from luthier.platform.settings import GIB
from luthier.platform.wire import Choice
from luthier.serve.complete import Tally
from tests.e2e.asked import Asked, Run, started
from tests.e2e.leaving import a_client_leaves_a_stream, a_client_leaves_before_the_whole_answer, sample
from tests.e2e.live import LONG, MAX_LORAS
from tests.e2e.tuned import Tuner, halved, tiny_tuner
from tests.tiny_adapter import change_weights

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NUM_TOKENS = 24
DEATH_SECONDS = 5.0


@pytest.fixture(scope="module")
def tuner(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuner:
    return tiny_tuner(tiny_model, tmp_path_factory, "tensor_parallel_size = 2")


@pytest.fixture(scope="module")
def engine(tuner: Tuner) -> Iterator[tuple[Asked, Run]]:
    with started(tuner.base, tuner.base_dir) as engine:
        yield engine


@pytest.fixture(scope="module")
def tuned(tuner: Tuner) -> list[ModelVersion]:
    return [tuner.tuned(seed=seed) for seed in range(2)]


def workers(asked: Asked) -> list[psutil.Process]:
    return [each for each in asked.engine._processes if "VLLM::Worker_TP" in " ".join(each.cmdline())]


def likeliest(model: PreTrainedModel, ids: list[int]) -> tuple[list[int], list[float]]:
    """The answer's tokens, one after another, and their log-probabilities."""
    told: list[tuple[int, float]] = []
    for _ in range(NUM_TOKENS):
        with torch.no_grad():
            best = model(torch.tensor([[*ids, *(token for token, _ in told)]])).logits[0, -1].log_softmax(-1).max(-1)
        told.append((int(best.indices), float(best.values)))
    return [token for token, _ in told], [logprob for _, logprob in told]


def test_two_processes_answer_as_one(asked: Asked, run: Run, tuner: Tuner, tuned: list[ModelVersion]) -> None:
    """Base and adapters alone, and in one batch."""
    versions, ids = [None, *tuned], load_prompts(tuner.base_dir).encode("the fox")

    async def all_at_once() -> list[list[float]]:
        given = {"prompt": ids, "temperature": 0, "max_tokens": NUM_TOKENS, "logprobs": 0}
        tallies = [Tally() for _ in versions]
        pairs = zip(versions, tallies, strict=True)
        choices = await asyncio.gather(*(asked.ask("whole", tally, each, **given) for each, tally in pairs))
        assert [(tally.prompt, tally.completion) for tally in tallies] == [(len(ids), NUM_TOKENS)] * len(versions)
        return [[each.logprob for each in one.logprobs] for (one,) in choices]

    assert len(workers(asked)) == 2
    cache = asked.engine._engine.vllm_config.cache_config
    assert cache.kv_cache_memory_bytes * 2 == tuner.base.engine.kv_cache_gib * GIB
    counted, told = sample("generation_tokens_total"), run(all_at_once())
    assert sample("generation_tokens_total") == counted + len(versions) * NUM_TOKENS + asked.engine.probed.completion
    assert run(all_at_once()) == [pytest.approx(logprobs, abs=1e-4) for logprobs in told]
    for version, logprobs in zip(versions, told, strict=True):
        model = AutoModelForCausalLM.from_pretrained(tuner.base_dir, dtype=torch.float32)
        tokens, expected = likeliest(PeftModel.from_pretrained(model, version.path) if version else model, ids)
        assert logprobs == pytest.approx(expected, abs=1e-3)
        assert run(asked.engine.score([*ids, *tokens], len(ids), version)) == pytest.approx(logprobs, abs=1e-3)
    assert all(one != pytest.approx(other, abs=0.1) for one, other in combinations(told, 2))


def test_each_is_proved(asked: Asked, run: Run, tuned: list[ModelVersion]) -> None:
    for version in tuned:
        run(asked.answer(version))
        assert run(asked.reported(version)).state is ProofState.PROVED


@pytest.mark.parametrize(
    ("change", "fault"),
    [(halved, "nats off what its trainer measured"), (lambda all: all.pop(min(all)), "the engine cannot load it")],
)
def test_what_is_not_what_was_trained_is_refused(
    asked: Asked, run: Run, tuner: Tuner, tuned: list[ModelVersion], change: Callable[[Any], Any], fault: str
) -> None:
    changed = tuner.changed(tuned[0], lambda folder: change_weights(folder, change))
    assert fault in run(asked.refusal(changed))
    assert run(asked.answer(tuned[0]))


def test_adapters_come_and_go_in_both(asked: Asked, run: Run, tuner: Tuner, tuned: list[ModelVersion]) -> None:
    """More than there is memory for, all at once, and each answers as it does alone."""
    places = tuner.base.engine.max_cpu_loras
    others = [
        tuner.changed(tuned[0], partial(lambda folder, text: (folder / "note").write_text(text), text=str(number)))
        for number in range(places + 1)
    ]

    async def all_at_once() -> list[str]:
        return await asyncio.gather(*(asked.answer(each) for each in [tuned[0], *others, tuned[1]]))

    first, second = (run(asked.answer(each)) for each in tuned)
    assert run(all_at_once()) == [*[first] * (len(others) + 1), second]
    after = run(asked.engine.adapters(""))
    assert len(after.in_memory) == places
    assert len(after.in_engine) <= MAX_LORAS
    assert set(after.in_engine) <= set(after.in_memory)


def test_clients_leave(asked: Asked, run: Run) -> None:
    run(a_client_leaves_a_stream(asked, 1))
    run(a_client_leaves_before_the_whole_answer(asked, 2))


def test_who_waits_when_a_process_dies_is_told_at_once(
    asked: Asked, run: Run, tuner: Tuner, tuned: list[ModelVersion]
) -> None:
    """In the midst of an answer and of an adapter's load. Last: the engine is dead then."""
    new = tuner.changed(tuned[0], lambda folder: (folder / "note").write_text("never loaded"))

    async def rest(stream: AsyncIterator[list[Choice]]) -> None:
        async for _ in stream:
            pass

    async def dies() -> None:
        stream = asked.ask("stream", Tally(), max_tokens=LONG)
        await anext(stream)
        victim, _ = workers(asked)
        victim.suspend()
        answering, loading = (asyncio.create_task(each) for each in (rest(stream), asked.answer(new)))
        while not asked.engine._engine.engine_core.utility_results:
            await asyncio.sleep(0.01)
        victim.kill()
        async with asyncio.timeout(DEATH_SECONDS):
            with pytest.raises(Unavailable, match="restarted"):
                await loading
            with pytest.raises(Unavailable):
                await asked.engine.check()
            asked.engine.kill()  # as its replica does; vLLM itself gives the other process nine seconds
            with pytest.raises(Unavailable, match="restarted"):
                await answering

    run(dies())
