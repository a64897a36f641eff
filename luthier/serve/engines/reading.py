"""What vLLM puts out as choices; with probabilities, the prompt's echo and calls of tools where they are asked for."""

from collections.abc import Callable, Sequence
from typing import Any

from luthier.platform.wire import Choice, CompleteRequest, TokenLogprob, ToolCall
from luthier.serve.engines.tool_calls import Calls

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has not."""


def plain_choices(output: Any) -> list[Choice]:
    return [Choice(index=each.index, text=each.text, finish_reason=each.finish_reason) for each in output.outputs]


class Reader:
    """Of one request's outputs."""

    def __init__(
        self, request: CompleteRequest, echo: tuple[str, str] | None, calls: Callable[[], Calls] | None
    ) -> None:
        """`echo` is the prompt's text, and that of its first token."""
        self._request, self._echo, self._new_calls = request, echo, calls
        self._calls: dict[int, Calls] = {}
        self._seen: set[int] = set()
        """Choices that began."""
        self._calling: set[int] = set()
        """Choices with a call."""
        self._prompt: list[TokenLogprob] = []

    def choices(self, output: Any) -> list[Choice]:
        if self._echo and output.prompt_logprobs:
            self._prompt = _of_prompt(output.prompt_logprobs, self._echo[1], self._request.logprobs or 0)
        found = [self._choice(each) for each in output.outputs]
        return [each for each in found if each.text or each.tool_calls or each.logprobs or each.finish_reason]

    def _choice(self, each: Any) -> Choice:
        text, logprobs, finish = each.text, None, each.finish_reason
        if self._request.logprobs is not None:
            logprobs = _tokens(each.token_ids, each.logprobs, self._request.logprobs)
            if finish == "stop" and not self._echo and not isinstance(each.stop_reason, str):
                # The token that ends a sequence is not in the text. Who has the prompt's own counts from the end.
                del logprobs[-1:]
        if self._request.max_tokens == 0:  # vLLM makes one at the least
            text, logprobs, finish = "", logprobs and [], finish and "length"
        if self._echo and each.index not in self._seen:
            self._seen.add(each.index)
            text = self._echo[0] + text
            logprobs = logprobs if logprobs is None else [*self._prompt, *logprobs]
        calls: list[ToolCall] | None = None
        if self._new_calls:
            reader = self._calls.setdefault(each.index, self._new_calls())
            text, calls = reader.read(text, each.token_ids, finish is not None)
            finish = self._finish(each.index, calls, finish)
        return Choice(index=each.index, text=text, finish_reason=finish, tool_calls=calls or None, logprobs=logprobs)

    def _finish(self, index: int, calls: list[ToolCall], finish: str | None) -> str | None:
        """Of a choice with calls it is `tool_calls`, but `stop` where one tool was named, as OpenAI has it."""
        if calls:
            self._calling.add(index)
        is_named = self._request.tools is not None and self._request.tools.is_named
        return "tool_calls" if finish == "stop" and index in self._calling and not is_named else finish


def _of_prompt(places: Sequence[Any], first: str, num_top: int) -> list[TokenLogprob]:
    """vLLM has the prompt's own token first at each place, and nothing at the first place."""
    ids = [next(iter(place)) for place in places[1:]]
    return [TokenLogprob(first, None, ()), *_tokens(ids, places[1:], num_top)]


def _tokens(ids: Sequence[int], places: Sequence[Any], num_top: int) -> list[TokenLogprob]:
    return [_token(place[token], place, num_top) for token, place in zip(ids, places, strict=True)]


def _token(taken: Any, place: dict[int, Any], num_top: int) -> TokenLogprob:
    ranked = sorted((each for each in place.values() if each.rank <= num_top), key=lambda each: each.rank)
    top = tuple((each.decoded_token or "", max(each.logprob, LEAST_LOGPROB)) for each in ranked[:num_top])
    return TokenLogprob(taken.decoded_token or "", max(taken.logprob, LEAST_LOGPROB), top)
