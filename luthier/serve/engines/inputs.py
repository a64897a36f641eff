"""What a request gives to vLLM: its prompt in tokens, and how to sample; checked before anything is generated."""

import asyncio
from typing import Any

from luthier.errors import ContextTooLong, InvalidInput, InvalidValue
from luthier.platform.data.prompts import Prompts
from luthier.platform.wire import CompleteRequest
from luthier.serve.doors.refusals import invalid
from luthier.serve.doors.schema_told import for_grammar
from luthier.serve.threads import PROMPTS

DEFAULT_MAX_TOKENS = 4096
"""As Snowflake's COMPLETE, when the context leaves room for it."""
MAX_INLINE_CHARS = 8_000
"""In one turn of the loop; to tokenise more would hold it up, and with it everybody's stream, for milliseconds."""
MESSAGE_CHARS = 100
"""What the template does for a message takes as long as tokenising so many."""


class Inputs:
    """Of one base model."""

    def __init__(self, prompts: Prompts, limit: int, last_token: int) -> None:
        """`limit` is that of the context window, `last_token` the greatest id that the engine takes."""
        self._prompts, self._limit, self._last_token = prompts, limit, last_token
        self._most_chars = limit * prompts.longest_token
        self._num_inline = 0

    async def ids(self, request: CompleteRequest, is_plain: bool) -> list[int]:
        """`render`, beside the loop when it takes long: by itself, or with all that came in the same turn."""
        if _is_nested(request):
            return await PROMPTS.run(self._rendered, request, is_plain)
        if not self._is_inline(self._checked_size(request)):
            return await PROMPTS.run(self.render, request, is_plain)
        return self.render(request, is_plain)

    def _rendered(self, request: CompleteRequest, is_plain: bool) -> list[int]:
        self._checked_size(request)
        return self.render(request, is_plain)

    def render(self, request: CompleteRequest, is_plain: bool) -> list[int]:
        """The prompt in tokens: messages through the chat template, a bare prompt as it stands.

        `is_plain` says that the model was trained without a template: a lone user's message is then a bare prompt.
        """
        messages, prompt = request.messages, request.prompt
        if messages is not None:
            if not (is_plain and [turn["role"] for turn in messages] == ["user"]):
                return self._prompts.chat(messages, request.tools.tools if request.tools else None)
            if request.tools:
                raise InvalidValue("Invalid 'tools': the model was trained without a chat template.", param="tools")
            prompt = messages[0]["content"]
        ids = self._known(prompt) if isinstance(prompt, list) else self._prompts.encode(prompt or "")
        if not ids:
            raise InvalidInput("The prompt is empty.", param="prompt")
        return ids

    async def grammar(self, request: CompleteRequest) -> Any:
        """What vLLM's answer is held to, made beside the loop: a schema may be large."""
        from vllm.sampling_params import StructuredOutputsParams

        if request.json_schema is None:
            return None
        if not request.json_schema:
            return StructuredOutputsParams(json_object=True)
        return StructuredOutputsParams(json=await PROMPTS.run(for_grammar, request.json_schema))

    def sampling(self, request: CompleteRequest, num_prompt: int, is_streamed: bool, grammar: Any = None) -> Any:
        """vLLM's SamplingParams. ContextTooLong where the window has no room for what is asked for."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self._limit - num_prompt
        if (request.max_tokens or 1) > room:
            asked = f"{num} are asked for" if (num := request.max_tokens) else "the engine makes one more at least"
            shorten = "Shorten the prompt, or lower max_tokens" if room > 0 else "Shorten the prompt"
            raise ContextTooLong(
                f"The context window is {self._limit} tokens: the prompt has {num_prompt}, and {asked}. {shorten}.",
                limit=self._limit,
                param=_place(request),
            )
        return SamplingParams(
            n=request.n,
            max_tokens=min(DEFAULT_MAX_TOKENS, room) if request.max_tokens is None else max(request.max_tokens, 1),
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k or 0,
            stop=list(request.stop) or None,
            seed=request.seed,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            repetition_penalty=request.repetition_penalty,
            ignore_eos=request.ignore_eos,
            structured_outputs=grammar,
            logit_bias=request.logit_bias,
            logprobs=request.logprobs,
            prompt_logprobs=request.logprobs if request.echo else None,
            output_kind=RequestOutputKind.DELTA if is_streamed else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for this request alone: vLLM need not copy it deeply
        )

    def _is_inline(self, num_chars: int) -> bool:
        """Takes of what this turn of the loop has left."""
        if self._num_inline + num_chars > MAX_INLINE_CHARS:
            return False
        if not self._num_inline:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._num_inline += num_chars
        return True

    def _next_turn(self) -> None:
        self._num_inline = 0

    def _checked_size(self, request: CompleteRequest) -> int:
        """In characters that take as long. What cannot fit is refused: no token is longer than the longest, and no
        message empty.
        """
        num_texts, num_chars = len(request.messages or (1,)), prompt_size(request)
        if num_chars > self._most_chars or num_texts > self._limit:
            raise ContextTooLong(
                f"The context window is {self._limit} tokens, at most {self._most_chars} characters: the prompt has "
                f"{num_chars}, in {num_texts} parts. Shorten it.",
                limit=self._limit,
                param=_place(request),
            )
        return num_chars + MESSAGE_CHARS * num_texts

    def _known(self, ids: list[int]) -> list[int]:
        """vLLM refuses others too, but when it may have begun with the request's other prompts."""
        unknown = next((each for each in ids if not 0 <= each <= self._last_token), None)
        if unknown is not None:
            raise invalid("prompt", f"token id {unknown} is out of vocabulary")
        return ids


def _place(request: CompleteRequest) -> str:
    """The parameter that the prompt is in."""
    return "prompt" if request.messages is None else "messages"


def _is_nested(request: CompleteRequest) -> bool:
    """Tools and calls may hold half a million numbers, which take long to be counted."""
    return request.tools is not None or any("tool_calls" in turn for turn in request.messages or ())


def prompt_size(request: CompleteRequest) -> int:
    """Characters of all that is to be read: of messages with names and calls, and of tools; or of the prompt."""
    if request.messages is None:
        return len(request.prompt or "")
    said = [value for turn in request.messages for key, value in turn.items() if key != "role"]
    return sum(map(_num_chars, said)) + (_num_chars(request.tools.tools) if request.tools else 0)


def _num_chars(said: Any) -> int:
    """Of all that is written of it but quotes and spaces: a number is one at least, and what holds others two."""
    if isinstance(said, str):
        return len(said)
    if isinstance(said, dict):
        return 2 + sum(len(key) + _num_chars(value) for key, value in said.items())
    return 2 + sum(map(_num_chars, said)) if isinstance(said, list) else 1
