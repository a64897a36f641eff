"""The engine: vLLM with many LoRA adapters on one base model. Counts are its own; text is never tokenised again."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from luthier.errors import InvalidValue, Unavailable
from luthier.platform.base_models import BaseModel
from luthier.platform.data.prompts import Prompts, load_prompts
from luthier.platform.models import ModelVersion
from luthier.platform.options import Method
from luthier.platform.wire import Choice, CompleteRequest, ToolUse
from luthier.serve.adapters.adapter_stats import AdapterStats
from luthier.serve.adapters.loading import Loader, Surroundings
from luthier.serve.adapters.turns import Turns
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally
from luthier.serve.engines.engine_args import engine_args, num_threads, own_args, prepare_environment, stat_loggers
from luthier.serve.engines.engine_faults import check_grammar, client_error, refused
from luthier.serve.engines.inputs import Inputs
from luthier.serve.engines.own_cpu import keep_cpu
from luthier.serve.engines.reading import Reader, plain_choices
from luthier.serve.engines.tool_calls import Calls, ForcedCalls
from luthier.serve.engines.tool_family import Family

LOOK_SECONDS = 0.1
"""How often who waits for vLLM's workers looks whether they live. Shorter than what a replica has left by then."""
STOPPED = "The engine stopped; it is being restarted. Try again."


class VllmEngine:
    """One base model in vLLM, or a version with all weights of its own. Start it inside a running event loop."""

    def __init__(
        self, base: BaseModel, weights: Path, use_gpu: bool, around: Surroundings, own: str | None = None
    ) -> None:
        """`own` is the version, by content hash."""
        prepare_environment(base, weights, use_gpu)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self._prompts: Prompts = load_prompts(weights)
        self._base, self._own = base, own
        self.probed = Tally()
        """By `score`, and the token that vLLM makes where none is asked for."""
        parser = base.engine.tool_parser
        self._family = Family(parser, self._prompts.tokenizer) if parser else None
        arguments = engine_args(base, weights, use_gpu, with_adapters=own is None) | own_args(base, weights, use_gpu)
        # vLLM sizes its steps by what it is started for: on large GPUs a server's are four times those of an engine.
        context = UsageContext.OPENAI_API_SERVER
        self._engine: Any = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments), usage_context=context, stat_loggers=stat_loggers()
        )
        self._inputs = Inputs(self._prompts, base.engine.max_model_len, _last_token(self._engine))
        self._turns = Turns(base.engine.max_loras)
        self._loader = Loader(self, base, self._prompts, around, self._turns)
        self._processes = [each for each in psutil.Process().children(recursive=True) if _is_vllm(each)]
        if not use_gpu and len(self._processes) == 1 and num_threads(weights) == 1:
            self._claim = keep_cpu(self._processes[0])  # held as long as the engine is

    async def check(self) -> None:
        """Raises Unavailable when the engine, or one of its processes, is dead: vLLM may miss the death of a worker."""
        try:
            await self._engine.check_health()
        except _engine_dead() as error:
            raise Unavailable("The engine is dead.") from error
        if not all(_is_alive(each) for each in self._processes):
            raise Unavailable("A process of the engine is dead.")

    def kill(self) -> None:
        """Ends the engine's processes, hung or not."""
        for each in self._processes:
            with suppress(psutil.NoSuchProcess):
                each.kill()

    async def adapters(self, replica: str) -> AdapterStats:
        """Which are where, and how their loads went."""
        return await self._loader.stats(replica)

    def held(self) -> list[int]:
        """Versions whose adapters are in memory, by number."""
        return self._loader.held()

    async def call(self, method: str, *args: Any) -> list[Any]:
        """What each of vLLM's workers answers to a method of AdapterWorker. Unavailable when one of them dies: vLLM
        gives no answer then, or an error of any kind.
        """
        asking = asyncio.ensure_future(self._engine.collective_rpc(method, args=args))
        try:
            while not (await asyncio.wait([asking], timeout=LOOK_SECONDS))[0]:
                await self.check()
            answers: list[Any] = asking.result()
        except Exception as error:
            if await self._is_dead():
                raise Unavailable(STOPPED) from error
            raise
        finally:
            asking.cancel()
        return answers

    async def _is_dead(self) -> bool:
        try:
            await self.check()
        except Unavailable:
            return True
        return False

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        """The log-probability of each token from a place on. Who asks with an adapter has a turn of it."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input

        # With prompt_logprobs vLLM reads no prefix from its cache.
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        given = tokens_input(list(ids)), params, f"proof_{uuid.uuid4().hex}"
        try:
            *_, output = [each async for each in self._engine.generate(*given, lora_request=_lora_request(adapter))]
        except _engine_dead() as error:
            raise Unavailable(STOPPED) from error
        self.probed.prompt += len(ids)
        self.probed.completion += len(output.outputs[0].token_ids)
        return [output.prompt_logprobs[at][ids[at]].logprob for at in range(start, len(ids))]

    async def whole(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> list[Choice]:
        """All of the answer at once. ContextTooLong before anything is generated; Unavailable when the engine dies."""
        outputs = self._outputs(ask, adapter, tally, is_streamed=False)
        return [choices async for choices in outputs][-1]

    async def load(self, version: ModelVersion) -> None:
        """Has the adapter in memory, proved, before a request asks for it."""
        turn = await self._loader.hold(version)
        self._loader.release(version)
        if turn:
            turn()

    def stream(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> AsyncGenerator[list[Choice], None]:
        """Pieces of the answer as they come; errors as those of `whole`."""
        return self._outputs(ask, adapter, tally, is_streamed=True)

    async def _outputs(
        self, ask: Ask, adapter: ModelVersion | None, tally: Tally, *, is_streamed: bool
    ) -> AsyncGenerator[list[Choice], None]:
        """Left before the end, the generation is aborted, and the tally has all of its tokens."""
        request = ask.request
        ids = await self._inputs.ids(request, is_plain=adapter is not None and adapter.task_type.is_plain)
        params = self._inputs.sampling(request, len(ids), is_streamed, await self._inputs.grammar(request))
        read = self._choices_of(request, ids, params, is_streamed)
        self._check_weights(adapter)
        await tally.reserve(len(ids), 0 if request.max_tokens == 0 else params.max_tokens * request.n)
        made = self.probed if request.max_tokens == 0 else tally
        lora = adapter if self._own is None else None
        queue, is_done, began = None, False, time.monotonic()
        async with self._ready(lora, request.priority) as ready:
            try:
                waited = time.monotonic() - began
                queue = await self._add(ask, ids, params, _lora_request(lora))
                _close_with(queue, ready)
                while not is_done:
                    output = queue.get_nowait() or await queue.get()
                    is_done = output.finished
                    _count(tally, made, len(ids), output)
                    if is_done:
                        _time(tally, output, waited)
                        if request.json_schema is not None:
                            check_grammar(output, request)
                    if choices := read(output):
                        yield choices
            except client_error() as error:
                raise refused(error, request) from error
            except _engine_dead() as error:
                raise Unavailable("The engine stopped while it answered; it is being restarted. Try again.") from error
            except (asyncio.CancelledError, GeneratorExit):
                tally.prompt = len(ids) if queue else 0
                raise
            finally:
                if queue and not is_done:
                    await self._abort(queue, len(ids), (tally, made), waited)

    @asynccontextmanager
    async def _ready(self, adapter: ModelVersion | None, priority: int) -> AsyncIterator[ExitStack]:
        """While the adapter is in memory and has a slot: to the block's end, or until what it gives is closed."""
        with ExitStack() as ready:
            if adapter:
                since = time.monotonic()
                turn = await self._loader.hold(adapter)
                ready.callback(self._loader.release, adapter)
                ready.callback(turn or await self._turns.take(adapter.number, priority, since))
            yield ready

    def _check_weights(self, adapter: ModelVersion | None) -> None:
        """Raises Unavailable when the engine was chosen by what the model's name meant before."""
        if (adapter.sha256 if adapter and adapter.method is Method.FULL else None) != self._own:
            name = adapter.model if adapter else self._base.name
            raise Unavailable(f"This engine does not hold the weights of {name}. Try again in a moment.")

    async def _add(self, ask: Ask, ids: list[int], params: Any, lora: Any) -> Any:
        """vLLM's queue of this request's outputs."""
        from vllm.inputs.engine import tokens_input

        # What one account's prompts left in vLLM's prefix cache would tell another, by its time, what was asked.
        prompt, priority = tokens_input(ids, cache_salt=ask.caller.account), ask.request.priority
        try:
            return await self._engine.add_request(ask.id, prompt, params, lora_request=lora, priority=priority)
        except asyncio.CancelledError:
            await self._engine.abort(ask.id)
            raise

    async def _abort(self, queue: Any, num_prompt: int, tallies: tuple[Tally, Tally], waited: float) -> None:
        """vLLM leaves in the queue what it generated so far, before it first waits: a second cancel loses nothing."""
        from vllm.outputs import RequestOutput

        try:
            with suppress(_engine_dead()):
                await self._engine.abort(queue.request_id, internal=True)
        finally:
            if isinstance(queue.output, RequestOutput):
                _count(*tallies, num_prompt, queue.output)
                _time(tallies[0], queue.output, waited)

    def _choices_of(
        self, request: CompleteRequest, ids: list[int], params: Any, is_streamed: bool
    ) -> Callable[[Any], list[Choice]]:
        """How the request's outputs are read."""
        if request.tools is None and request.logprobs is None and not request.echo and request.max_tokens != 0:
            return plain_choices
        echo = None
        if request.echo:
            prompt = request.prompt if isinstance(request.prompt, str) else self._prompts.decode(ids)
            echo = prompt, self._prompts.decode(ids[:1])
        return Reader(request, echo, self._calls(request.tools, params, is_streamed)).choices

    def _calls(self, use: ToolUse | None, params: Any, is_streamed: bool) -> Callable[[], Calls] | None:
        if use is None:
            return None
        if use.is_forced:
            return ForcedCalls
        if self._family is None:
            raise InvalidValue(
                f"Invalid 'tool_choice': base model {self._base.name} has no parser for calls of its own accord; "
                "'required' and a named function work.",
                param="tool_choice",
            )
        family, asked = self._family, self._family.asked(use)
        params.skip_special_tokens = asked.skip_special_tokens
        return lambda: family.calls(asked, is_streamed, use.is_parallel)


def _count(tally: Tally, made: Tally, num_prompt: int, output: Any) -> None:
    """Adds an output of vLLM, its tokens to `made`. The prompt counts with the first, or when a client leaves."""
    if num_new := sum(len(each.token_ids) for each in output.outputs):
        tally.prompt = num_prompt
        made.completion += num_new


def _close_with(queue: Any, ready: ExitStack) -> None:
    """With vLLM's last output, however late that is read."""
    put = queue.put

    def put_last(output: Any) -> None:
        put(output)
        if isinstance(output, Exception) or output.finished:
            ready.close()
            del queue.put  # which holds the queue

    queue.put = put_last
    if isinstance(queue.output, Exception) or (queue.output and queue.output.finished):
        ready.close()


def _time(tally: Tally, output: Any, waited: float) -> None:
    """How long it waited, before vLLM and by its statistics; one that was never scheduled has none."""
    stats = output.metrics
    if stats and stats.scheduled_ts:
        tally.queued = waited + stats.scheduled_ts - stats.queued_ts
    if stats and stats.first_token_latency:
        tally.first = waited + stats.first_token_latency


def _lora_request(adapter: ModelVersion | None) -> Any:
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    # vLLM keys its LoRA cache by the number and its KV cache by the name: neither is ever used again for other weights.
    return LoRARequest(f"{adapter.model}@{adapter.sha256[:16]}", adapter.number, adapter.path)


def _last_token(engine: Any) -> int:
    """The greatest id that vLLM takes: of the tokenizer or of the model, whichever has more."""
    return max(int(engine.tokenizer.max_token_id), int(engine.model_config.get_vocab_size()) - 1)


def _is_vllm(process: psutil.Process) -> bool:
    """Its engine core or a worker, by the title that vLLM gives them."""
    with suppress(psutil.NoSuchProcess):
        return "VLLM::" in " ".join(process.cmdline())
    return False


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _engine_dead() -> type[Exception]:
    from vllm.v1.engine.exceptions import EngineDeadError

    error: type[Exception] = EngineDeadError
    return error
