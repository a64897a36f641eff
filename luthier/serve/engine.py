"""The engine: vLLM with many LoRA adapters on one base model. Counts are its own; text is never tokenised again."""

import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from luthier.errors import ContextTooLong, InvalidInput, Unavailable
from luthier.platform.base_models import BaseModel
from luthier.platform.models import ModelVersion
from luthier.platform.options import Method
from luthier.platform.prompts import Prompts, load_prompts
from luthier.platform.wire import Choice, Chunk, CompleteRequest, Usage

GPU_MEMORY = 0.9
"""Of a GPU that the engine has to itself."""
DEFAULT_MAX_TOKENS = 4096
"""As Snowflake's COMPLETE, when the context leaves room for it."""


class VllmEngine:
    """One base model in vLLM. Start it inside a running event loop."""

    def __init__(self, base: BaseModel, base_dir: Path, use_gpu: bool) -> None:
        _prepare_environment(base, use_gpu)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._limit = base.engine.max_model_len
        self._prompts: Prompts = load_prompts(base_dir)
        self._engine: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**_engine_args(base, base_dir, use_gpu)))
        self._processes = [each for each in psutil.Process().children(recursive=True) if _is_vllm(each)]

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

    async def generate(
        self, request_id: str, request: CompleteRequest, adapter: ModelVersion | None
    ) -> AsyncGenerator[Chunk, None]:
        """Pieces of the answer as they come; each counts its own new tokens, and the prompt's.

        Closed early, the generation is aborted. ContextTooLong before anything is generated.
        """
        ids = self.render(request, is_plain=adapter is not None and adapter.task_type.is_plain)
        params = self._sampling(request, len(ids))
        outputs = self._engine.generate(
            {"prompt_token_ids": ids}, params, request_id, lora_request=_lora_request(adapter)
        )
        try:
            async for output in outputs:
                yield _chunk(output, len(ids))
        except _engine_dead() as error:
            raise Unavailable("The engine stopped while it answered; it is being restarted. Try again.") from error

    def render(self, request: CompleteRequest, is_plain: bool) -> list[int]:
        """The prompt in tokens: messages through the chat template, a bare prompt as it stands.

        `is_plain` says that the model was trained without a template: a lone user's message is then a bare prompt.
        """
        messages = request.messages
        if messages is not None and not (is_plain and [message["role"] for message in messages] == ["user"]):
            return self._prompts.chat(messages)
        ids = self._prompts.encode(messages[0]["content"] if messages else request.prompt or "")
        if not ids:
            raise InvalidInput("The prompt is empty.")
        return ids

    def _sampling(self, request: CompleteRequest, num_prompt: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self._limit - num_prompt
        if room < 1 or (request.max_tokens or 0) > room:
            raise ContextTooLong(
                f"The context window is {self._limit} tokens: the prompt has {num_prompt}, and "
                f"{request.max_tokens or 1} are asked for. Shorten the prompt, or lower max_tokens."
            )
        return SamplingParams(
            n=request.n,
            max_tokens=request.max_tokens or min(DEFAULT_MAX_TOKENS, room),
            temperature=request.temperature,
            top_p=request.top_p,
            stop=request.stop or None,
            seed=request.seed,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            output_kind=RequestOutputKind.DELTA,
        )


def _chunk(output: Any, num_prompt: int) -> Chunk:
    """A DELTA output of vLLM. Its usage counts this piece alone: the prompt is counted by the caller, once."""
    choices = [
        Choice(index=piece.index, text=piece.text, finish_reason=piece.finish_reason) for piece in output.outputs
    ]
    num_new = sum(len(piece.token_ids) for piece in output.outputs)
    return Chunk(choices=choices, usage=Usage(prompt_tokens=num_prompt, completion_tokens=num_new))


def _lora_request(adapter: ModelVersion | None) -> Any:
    if adapter is None:
        return None
    if adapter.method is Method.FULL:
        raise Unavailable(
            f"Model {adapter.model} has weights of its own, which the engine of {adapter.base_model} does not hold. "
            f"`luthier models export` gives them as a Hugging Face folder."
        )
    from vllm.lora.request import LoRARequest

    if not Path(adapter.path, "adapter_model.safetensors").is_file():
        raise Unavailable(f"The adapter of model {adapter.model} is missing in storage ({adapter.sha256[:12]}).")
    # vLLM keys its LoRA cache by the number and its KV cache by the name: neither is ever used again for other weights.
    return LoRARequest(f"{adapter.model}@{adapter.sha256[:16]}", adapter.number, adapter.path)


def _engine_args(base: BaseModel, base_dir: Path, use_gpu: bool) -> dict[str, Any]:
    engine = base.engine
    return {
        "model": str(base_dir),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "enable_lora": True,
        "max_loras": engine.max_loras,
        "max_cpu_loras": engine.max_cpu_loras,
        "max_lora_rank": _lora_room(base.max_rank),
        "dtype": engine.dtype,
        "tensor_parallel_size": engine.num_gpus if use_gpu else 1,
        "enforce_eager": not use_gpu,
        **({"gpu_memory_utilization": GPU_MEMORY * engine.gpu_share} if use_gpu else {}),
    }


def _lora_room(rank: int) -> int:
    """The next rank that vLLM has kernels for."""
    return next(room for room in (8, 16, 32, 64, 128, 256) if room >= rank)


def _prepare_environment(base: BaseModel, use_gpu: bool) -> None:
    """vLLM reads these when it is imported, and hands them to its processes."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not use_gpu:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(base.engine.kv_cache_gib)
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")


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
