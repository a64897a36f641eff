"""vLLM itself on the tiny model: what it answers, that tokens are counted to the last one, and that no adapter answers
that is not what was trained. One engine for all; the faults are planted in adapters that the trainer itself made.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from luthier.errors import ContextTooLong, InvalidValue
from luthier.platform.access import Caller
from luthier.platform.data.prompts import load_prompts
from luthier.platform.models import ModelVersion, ProofState
from luthier.platform.weights.adapter_files import WEIGHTS
from luthier.platform.weights.fingerprint import FINGERPRINT
from luthier.platform.wire import Choice, ToolUse
from luthier.serve.adapters.disk import LocalDisk
from luthier.serve.complete import Tally
from tests.e2e.asked import Asked, Run, started
from tests.e2e.grammars import schemas_are_kept_to, tools_are_called, what_cannot_be_kept_to_is_refused
from tests.e2e.leaving import (
    a_client_leaves_a_stream,
    a_client_leaves_at_any_moment,
    a_client_leaves_before_the_whole_answer,
    a_client_that_does_not_read_holds_nobody_up,
    a_crowd_leaves,
    live_requests_go_before_batches,
    sample,
)
from tests.e2e.live import LONG, MAX_LORAS
from tests.e2e.tuned import Tuner, emptied, exploded, halved, other_weights, tiny_tuner
from tests.e2e.turning import others_that_do_not_read, others_that_never_cease
from tests.factories import ADMIN
from tests.tiny_adapter import change_weights

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

GAP_SECONDS, GAP_SHARE = 1.0, 0.2
"""The longest silence of a stream while adapters come and go; where all of it takes longer, the machine is slow."""


@pytest.fixture(scope="module")
def tuner(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuner:
    return tiny_tuner(tiny_model, tmp_path_factory, 'tool_parser = "hermes"')


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The node's."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def engine(tuner: Tuner, disk: Path) -> Iterator[tuple[Asked, Run]]:
    with started(tuner.base, tuner.base_dir, LocalDisk(disk, tuner.base.name, 1 << 30)) as engine:
        yield engine


@pytest.fixture(scope="module")
def tuned(tuner: Tuner) -> ModelVersion:
    return tuner.tuned()


def test_the_engine(asked: Asked, run: Run) -> None:
    run(whole_and_streamed_are_alike(asked))
    run(a_seed_and_a_bias(asked))
    run(probabilities_and_echo(asked))
    run(log_likelihoods(asked, asked.base_dir))
    run(tokens_are_as_good_as_text(asked, asked.base_dir))
    run(schemas_are_kept_to(asked))
    run(what_cannot_be_kept_to_is_refused(asked))
    run(tools_are_called(asked))
    run(what_cannot_fit_is_never_tokenised(asked))
    run(a_crowd_leaves(asked))
    run(a_client_that_does_not_read_holds_nobody_up(asked))
    for n in (1, 2):
        run(a_client_leaves_a_stream(asked, n))
        run(a_client_leaves_before_the_whole_answer(asked, n))
        run(a_client_leaves_at_any_moment(asked, n))
    run(live_requests_go_before_batches(asked))


def test_what_the_trainer_made_is_proved(asked: Asked, run: Run, tuned: ModelVersion) -> None:
    assert run(asked.answer(tuned)) != run(asked.answer(None))
    assert run(asked.reported(tuned)).state is ProofState.PROVED


def test_without_a_fingerprint_an_adapter_answers_unproved(
    asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion
) -> None:
    foreign = tuner.changed(tuned, lambda folder: (folder / FINGERPRINT).unlink())
    assert run(asked.answer(foreign)) == run(asked.answer(tuned))
    assert run(asked.reported(foreign)).state is ProofState.UNPROVED


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: change_weights(folder, halved), "nats off what its trainer measured"),
        (lambda folder: change_weights(folder, emptied), "like its base model"),
        (lambda folder: change_weights(folder, exploded), "numbers beyond those of torch.float32"),
        (lambda folder: change_weights(folder, lambda all: all.pop(min(all))), "the engine cannot load it"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"no weights"), "the engine cannot load it"),
        (lambda folder: (folder / FINGERPRINT).write_text("{}"), "cannot be read"),
    ],
)
def test_an_adapter_that_is_not_what_was_trained_is_refused(
    asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion, change: Callable[[Path], Any], fault: str
) -> None:
    changed = tuner.changed(tuned, change)
    assert fault in run(asked.refusal(changed))
    assert run(asked.reported(changed)).state is ProofState.REFUSED
    assert run(asked.answer(tuned))


def test_stale_weights_are_refused(asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion) -> None:
    newer = tuner.tuned(seed=1)
    stale = tuner.changed(newer, lambda folder: (folder / WEIGHTS).write_bytes(Path(tuned.path, WEIGHTS).read_bytes()))
    assert run(asked.answer(newer))
    assert "nats off what its trainer measured" in run(asked.refusal(stale))


def test_another_base_model_is_refused(asked: Asked, run: Run, tuner: Tuner, tmp_path: Path) -> None:
    same_shape = tuner.tuned(base_dir=other_weights(tuner.base_dir, tmp_path / "same"))
    assert "trained on another base model" in run(asked.refusal(same_shape))
    larger = tuner.tuned(base_dir=other_weights(tuner.base_dir, tmp_path / "larger", hidden_size=96))
    assert "the engine cannot load it" in run(asked.refusal(larger))
    smaller = tuner.tuned(base_dir=other_weights(tuner.base_dir, tmp_path / "smaller", hidden_size=32))
    assert "trained on another base model" in run(asked.refusal(smaller))


def test_above_the_engines_rank_is_refused(asked: Asked, run: Run, tuner: Tuner) -> None:
    assert "the engine cannot load it" in run(asked.refusal(tuner.tuned(rank=32)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"~"), f"its {WEIGHTS} is not what was published"),
        (lambda file: file.unlink(), f"its {WEIGHTS} is missing in storage"),
    ],
)
def test_damaged_files_are_refused_by_name(
    asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion, change: Callable[[Path], Any], fault: str
) -> None:
    damaged = tuner.damaged(tuned, lambda folder: change(folder / WEIGHTS))
    assert fault in run(asked.refusal(damaged))


def noted(folder: Path, text: str) -> None:
    """Another content of the same weights."""
    (folder / "note").write_text(text)


async def gaps_beside(asked: Asked, asking: "asyncio.Future[Any]") -> list[float]:
    """Seconds between the pieces of streams, one after another and before all others in the queue, while it runs."""
    gaps, last = list[float](), None
    while not asking.done():
        async for _ in asked.ask("stream", Tally(), max_tokens=LONG):
            now = time.perf_counter()
            gaps += [] if last is None else [now - last]
            last = now
    return gaps


def test_more_adapters_than_memory_has_room_for(asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion) -> None:
    """All at once, twice: each answers as it does alone, whatever made room for it; a stream goes on beside them."""
    places = tuner.base.engine.max_cpu_loras
    others = [tuner.changed(tuned, partial(noted, text=str(n))) for n in range(2 * places)]
    many = [tuned, *others]

    async def all_at_once() -> list[str]:
        asking = asyncio.gather(*(asked.answer(each, priority=1) for each in [*many, None, *many]))
        gaps = await gaps_beside(asked, asking)
        assert len(gaps) > len(many)
        assert max(gaps) < max(GAP_SECONDS, GAP_SHARE * sum(gaps))
        answers = await asking
        await asyncio.gather(*(asked.reported(each) for each in many))
        return answers

    before, alone = run(asked.engine.adapters("")), run(asked.answer(tuned))
    answers = run(all_at_once())
    assert answers == [alone] * len(many) + [run(asked.answer(None))] + [alone] * len(many)
    after = run(asked.engine.adapters(""))
    assert len(after.in_memory) == places
    assert len(after.in_engine) == MAX_LORAS
    assert set(after.in_engine) <= set(after.in_memory)
    loads = sum(after.loads[source].count - before.loads[source].count for source in after.loads)
    assert loads >= len(many) - places
    assert after.evictions - before.evictions == loads - (places - len(before.in_memory))
    assert after.refused == before.refused
    assert after.hits + after.misses == before.hits + before.misses + 2 * len(many) + 1


def test_nobody_is_passed_over(asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion) -> None:
    others = [tuner.changed(tuned, partial(noted, text=f"busy {n}")) for n in range(MAX_LORAS)]
    run(others_that_never_cease(asked, others, tuned))
    run(others_that_do_not_read(asked, others, tuned))


def test_what_left_memory_comes_from_the_nodes_disk(
    asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion, disk: Path
) -> None:
    """Without storage; and from storage again, where the disk's is not what was trained."""
    others = [tuner.changed(tuned, partial(noted, text=f"other {n}")) for n in range(tuner.base.engine.max_cpu_loras)]

    async def cold() -> tuple[str, dict[str, int]]:
        """Its answer when all others have been asked after it, and how many loads came from where until then."""
        for each in others:
            await asked.answer(each)
        assert tuned.number not in asked.engine.held()
        answer, stats = await asked.answer(tuned), await asked.engine.adapters("")
        assert tuned.number in stats.on_disk
        return answer, {source: loads.count for source, loads in stats.loads.items()}

    alone, before = run(cold())
    storage, away = Path(tuned.path), Path(tuned.path).with_name("away")
    storage.rename(away)
    assert run(cold()) == (alone, before | {"disk": before["disk"] + 1 + len(others)})
    away.rename(storage)
    (copy,) = disk.glob(f"*/{tuned.sha256}-{tuned.number}")
    (copy / WEIGHTS).unlink()  # or storage's would be written over
    (copy / WEIGHTS).write_bytes(Path(others[0].path, FINGERPRINT).read_bytes())
    assert run(cold())[1]["storage"] == before["storage"] + 1
    assert run(cold())[0] == alone
    assert run(asked.reported(tuned)).state is ProofState.PROVED


def test_a_new_version_meets_no_old_cache(asked: Asked, run: Run, tuner: Tuner, tuned: ModelVersion) -> None:
    """Nor under the old one's name, with a prompt that the cache holds whole blocks of."""
    newer = tuner.tuned(seed=1).model_copy(update={"model": tuned.model, "version": 2})
    run(no_block_is_shared(asked, tuned, newer))


def whole_blocks(asked: Asked) -> list[int]:
    """A prompt that the prefix cache has whole blocks of."""
    ids = load_prompts(asked.base_dir).encode("the fox " * 400)[:400]
    assert len(ids) >= 3 * asked.engine._engine.vllm_config.cache_config.block_size
    return ids


async def no_block_is_shared(asked: Asked, old: ModelVersion, new: ModelVersion) -> None:
    engine, ids = asked.engine._engine, whole_blocks(asked)

    async def told(version: ModelVersion) -> list[float]:
        (choice,) = await asked.ask("whole", Tally(), version, prompt=ids, temperature=0, logprobs=0)
        return [each.logprob for each in choice.logprobs or ()]

    alone = await told(new)
    assert await engine.reset_prefix_cache()
    before, first = sample("prefix_cache_hits_total"), await told(old)
    assert await told(old) == pytest.approx(first, abs=1e-3)
    cached = sample("prefix_cache_hits_total")
    assert cached > before
    assert await told(new) == pytest.approx(alone, abs=1e-3)
    assert sample("prefix_cache_hits_total") == cached
    assert first != pytest.approx(alone, abs=0.1)


def test_accounts_share_no_prefix(asked: Asked, run: Run, tuned: ModelVersion) -> None:
    """Its time would tell one account what another asked: of a base model as of a tuned one that is shared."""
    for adapter in (None, tuned):
        run(no_prefix_is_shared(asked, adapter))


async def no_prefix_is_shared(asked: Asked, adapter: ModelVersion | None) -> None:
    ids, other = whole_blocks(asked), ADMIN.model_copy(update={"account": "other"})
    assert await asked.engine._engine.reset_prefix_cache()

    async def hits(caller: Caller) -> float:
        """Tokens of the prompt that the cache had."""
        before = sample("prefix_cache_hits_total")
        await asked.ask("whole", Tally(), adapter, caller=caller, prompt=ids)
        return sample("prefix_cache_hits_total") - before

    assert [await hits(caller) > 0 for caller in (ADMIN, other, ADMIN, other)] == [False, False, True, True]


async def whole_and_streamed_are_alike(asked: Asked) -> None:
    greedy = {"temperature": 0}
    for given in (
        greedy,
        {**greedy, "n": 2},
        {**greedy, "prompts": ["the fox", "what is"]},
        {"n": 3, "seed": 5},
        {**greedy, "stop": ["e"], "max_tokens": 60},
        {**greedy, "logprobs": 3},
        {"n": 2, "seed": 5, "echo": True, "logprobs": 2},
        {**greedy, "prompts": ["the fox", "what is"], "echo": True},
    ):
        tallies = Tally(), Tally()
        assert await asked.ask("whole", tallies[0], **given) == await asked.streamed(tallies[1], **given)
        assert tallies[0].usage == tallies[1].usage
    assert (await asked.ask("whole", tally := Tally(), n=3))[2].finish_reason == "length"
    assert tally.completion == 24


async def a_seed_and_a_bias(asked: Asked) -> None:
    texts = [(await asked.whole(seed=seed)).text for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    token = 70
    (forced,) = {each.token for each in (await asked.whole(logit_bias={token: 100.0}, logprobs=0)).logprobs or ()}
    assert (await asked.whole(temperature=0, logit_bias={token: 100.0})).text == forced * 8
    with pytest.raises(InvalidValue, match="out-of-vocab") as caught:
        await asked.whole(logit_bias={99_999: 1.0})
    assert caught.value.param == "logit_bias"


async def log_likelihoods(asked: Asked, base_dir: Path) -> None:
    """As lm-evaluation-harness asks for them: the prompts' tokens, one token more or none."""
    prompts = load_prompts(base_dir)
    ids = [prompts.encode(text) for text in ("the fox", "what is the fox")]
    given: dict[str, Any] = {
        "prompt": None,
        "prompts": ids,
        "temperature": 0,
        "echo": True,
        "logprobs": 1,
        "ignore_eos": False,
    }
    asked_for: dict[int, list[Choice]] = {}
    for num in (1, 0):
        before = replace(asked.engine.probed)
        asked_for[num] = await asked.ask("whole", tally := Tally(), **given, max_tokens=num)
        assert (tally.prompt, tally.completion) == (sum(map(len, ids)), num * len(ids))
        assert asked.engine.probed.completion - before.completion == (1 - num) * len(ids)
        assert await asked.streamed(Tally(), **given, max_tokens=num) == asked_for[num]
    for own, more, none in zip(ids, asked_for[1], asked_for[0], strict=True):
        (first, *likely), (_, *with_more) = ([each.logprob for each in one.logprobs or ()] for one in (none, more))
        assert (first, len(likely), len(with_more)) == (None, len(own) - 1, len(own))
        assert with_more[:-1] == pytest.approx(likely, abs=1e-4)
        assert likely == pytest.approx(await asked.engine.score(own, 1, None), abs=1e-4)
        assert (none.text, none.finish_reason) == (prompts.decode(own), "length")


async def probabilities_and_echo(asked: Asked) -> None:
    plain = await asked.whole(temperature=0)
    assert plain.logprobs is None
    choice = await asked.whole(temperature=0, logprobs=3)
    assert (choice.text, "".join(each.token for each in choice.logprobs or ())) == (plain.text, plain.text)
    for each in choice.logprobs or ():
        assert [number for _, number in each.top] == sorted((number for _, number in each.top), reverse=True)
        assert len(each.top) == 3
        assert each.top[0] == (each.token, each.logprob)
    ended = await asked.whole(logprobs=0, logit_bias={2: 100.0}, ignore_eos=False)  # the token that ends a sequence
    assert (ended.text, ended.finish_reason, ended.logprobs) == ("", "stop", [])
    echoed = await asked.whole(temperature=0, echo=True, logprobs=1)
    assert echoed.text == "the fox" + plain.text
    tokens = echoed.logprobs or []
    assert "".join(each.token for each in tokens) == echoed.text
    assert [each.logprob is None for each in tokens] == [True] + [False] * (len(tokens) - 1)
    assert (await asked.whole(temperature=0, echo=True)).text == echoed.text
    assert (await asked.whole(temperature=1.9, top_k=1)).text == plain.text
    nothing = await asked.whole(max_tokens=0)
    assert (nothing.text, nothing.finish_reason) == ("", "length")


async def tokens_are_as_good_as_text(asked: Asked, base_dir: Path) -> None:
    ids = load_prompts(base_dir).encode("the fox")
    assert await asked.whole(temperature=0, prompt=ids) == await asked.whole(temperature=0)
    assert (await asked.whole(temperature=0, prompt=ids, echo=True)).text.startswith("the fox")
    last = asked.engine._inputs._last_token
    await asked.whole(prompt=[last])
    for given in ({"prompt": [last + 1]}, {"prompts": [ids, [last + 1]]}):
        with pytest.raises(InvalidValue) as caught:
            await asked.ask("whole", tally := Tally(), **given)
        assert (caught.value.param, tally) == ("prompt", Tally())


async def what_cannot_fit_is_never_tokenised(asked: Asked) -> None:
    long, turn = "a" * 2**20, {"role": "user", "content": "a"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": [{"b": long}]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"description": long}}}}}
    too_much: list[dict[str, Any]] = [
        {"prompt": long},
        {"messages": [{**turn, "content": ""}] * 513},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}, turn]},
        {"messages": [turn], "tools": ToolUse(tools=[tool])},
    ]
    with mock.patch.object(asked.engine._inputs, "render", side_effect=AssertionError("tokenised")):
        for given in too_much:
            with pytest.raises(ContextTooLong, match="512 tokens"):
                await asked.ask("whole", Tally(), **given)
