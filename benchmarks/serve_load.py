"""The load of the serving benchmark, in a process of its own: the same requests to whatever side.

python -m benchmarks.serve_load PLAN LOAD: two JSON files, a Plan and a Load. Streamed answers are asked for and timed
by vLLM's own benchmark, whole ones by a closed loop: each of `concurrency` workers sends its next request when it has
the answer to the last.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from benchmarks.processes import counted
from luthier.platform.frozen import Frozen

TIMEOUT_SECONDS = 600.0


class Plan(Frozen):
    url: str
    """Up to /v1."""
    headers: dict[str, str]
    models: tuple[str, ...]
    """One a request, as the texts."""
    texts: tuple[str, ...]
    tokens: int
    """Of each answer, at most."""
    extra: dict[str, Any]
    """More keys of each body."""
    concurrency: int
    streamed: bool
    mark: str
    """Of the server's processes."""


class Load(Frozen):
    """What the client saw. Times are seconds, of requests that were answered."""

    seconds: float
    latencies: tuple[float, ...]
    first: tuple[float, ...] = ()
    """To the first token, streamed."""
    gaps: tuple[float, ...] = ()
    """From a piece to the next, streamed."""
    prompt_tokens: int
    completion_tokens: int
    """By the answers' own usage."""
    errors: tuple[str, ...]
    cpu: dict[str, float]
    """CPU seconds by group of processes, as `counted` tells them."""


class Answer(NamedTuple):
    latency: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    first: float = 0.0
    gaps: tuple[float, ...] = ()


def measure(plan: Plan) -> Load:
    """Sends all and counts the CPU meanwhile."""
    if plan.streamed:
        import vllm.benchmarks.serve  # noqa: F401 - it takes seconds, which are not the load's
    with counted(plan.mark) as cpu:
        seconds, answers = asyncio.run(_streamed(plan) if plan.streamed else closed_loop(plan))
    good = [answer for answer in answers if not answer.error]
    return Load(
        seconds=seconds,
        latencies=tuple(answer.latency for answer in good),
        first=tuple(answer.first for answer in good if plan.streamed),
        gaps=tuple(gap for answer in good for gap in answer.gaps),
        prompt_tokens=sum(answer.prompt_tokens for answer in good),
        completion_tokens=sum(answer.completion_tokens for answer in good),
        errors=tuple(answer.error for answer in answers if answer.error),
        cpu=cpu,
    )


Sent = tuple[float, list[Answer]]
"""Seconds from the first request to the last answer, and the answers."""


async def closed_loop(plan: Plan) -> Sent:
    """Whole answers. Of a plan with streamed ones it tells latencies and errors alone: good enough to warm up."""
    answers: list[Answer] = []
    waiting = zip(plan.models, plan.texts, strict=True)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers=plan.headers,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
    ) as session:
        began = time.perf_counter()
        await asyncio.gather(*(_work(session, plan, waiting, answers) for _ in range(plan.concurrency)))
        return time.perf_counter() - began, answers


async def _work(
    session: aiohttp.ClientSession, plan: Plan, waiting: Iterator[tuple[str, str]], answers: list[Answer]
) -> None:
    limits = {"max_completion_tokens": plan.tokens, "stream": plan.streamed, **plan.extra}
    for model, text in waiting:
        body = {"model": model, "messages": _messages(text), **limits}
        began = time.perf_counter()
        try:
            async with session.post(f"{plan.url}/chat/completions", json=body) as response:
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            answers.append(Answer(error=repr(error)))
            continue
        latency = time.perf_counter() - began
        if response.status != 200:
            answers.append(Answer(error=f"{response.status} {raw.decode(errors='replace')[:300]}"))
        else:
            usage = {} if plan.streamed else json.loads(raw)["usage"]
            answers.append(Answer(latency, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)))


async def _streamed(plan: Plan) -> Sent:
    """By vLLM's benchmark, which is handed the model of each request as a LoRA module."""
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.serve import TaskType, benchmark

    asked = [SampleRequest(text, 0, plan.tokens, chat_messages=_messages(text)) for text in plan.texts]
    found = await benchmark(
        task_type=TaskType.GENERATION,
        endpoint_type="openai-chat",
        api_url=f"{plan.url}/chat/completions",
        base_url=plan.url,
        model_id=plan.models[0],
        model_name=plan.models[0],
        tokenizer=None,
        input_requests=asked,
        logprobs=None,
        request_rate=float("inf"),
        burstiness=1.0,
        disable_tqdm=True,
        num_warmups=0,
        profile=False,
        selected_percentile_metrics=[],
        selected_percentiles=[],
        ignore_eos=False,
        goodput_config_dict={},
        max_concurrency=plan.concurrency,
        lora_modules=plan.models,
        lora_assignment="round-robin",
        extra_headers=plan.headers,
        extra_body=plan.extra,
        ready_check_timeout_sec=0,
    )
    columns = ("ttfts", "itls", "input_lens", "output_lens", "errors")
    answers = [_answer(*values) for values in zip(*(found[column] for column in columns), strict=True)]
    return found["duration"], answers


def _answer(first: float, gaps: list[float], prompt_tokens: int, completion_tokens: int, error: str) -> Answer:
    """A stream that names no token failed, whatever its status."""
    if error or not first or not completion_tokens:
        return Answer(error=error or "no token came")
    return Answer(first + sum(gaps), prompt_tokens, completion_tokens, "", first, tuple(gaps))


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


if __name__ == "__main__":
    plan_file, load_file = map(Path, sys.argv[1:])
    load_file.write_text(measure(Plan.model_validate_json(plan_file.read_text())).model_dump_json())
