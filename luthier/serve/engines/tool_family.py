"""Calls that a model makes of its own accord, read by the parser that vLLM has for its family."""

from collections.abc import Sequence
from typing import Any

from luthier.errors import InvalidInput
from luthier.platform.wire import ToolCall, ToolUse
from luthier.serve.engines.tool_calls import Calls, new_id


class Family:
    """The parser of a family of models, by vLLM's name for it."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        from vllm.parser.parser_manager import ParserManager

        try:
            kind = ParserManager.get_parser(tool_parser_name=name, enable_auto_tools=True)
            assert kind is not None
            kind(tokenizer, [])
        except (TypeError, RuntimeError) as error:
            raise InvalidInput(
                f"engine.tool_parser = {name!r} is no parser of vLLM's for this model: {error}"
            ) from error
        self._kind, self._tokenizer = kind, tokenizer

    def asked(self, use: ToolUse) -> Any:
        """vLLM's form of a request with these tools; its `skip_special_tokens` holds for the sampling."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        messages = [{"role": "user", "content": ""}]
        request = ChatCompletionRequest(messages=messages, tools=use.tools, tool_choice="auto")
        return self._kind(self._tokenizer, request.tools).adjust_request(request)

    def calls(self, asked: Any, is_streamed: bool, is_parallel: bool) -> Calls:
        """Of one choice."""
        parser = self._kind(self._tokenizer, asked.tools)
        return _Pieces(parser, asked, is_parallel) if is_streamed else _Whole(parser, asked, is_parallel)


class _Whole:
    def __init__(self, parser: Any, asked: Any, is_parallel: bool) -> None:
        self._parser, self._asked, self._is_parallel = parser, asked, is_parallel

    def read(self, text: str, ids: Sequence[int], is_last: bool) -> tuple[str, list[ToolCall]]:
        _, content, calls = self._parser.parse(text, self._asked, enable_auto_tools=True, model_output_token_ids=ids)
        made = [
            ToolCall(index=index, id=call.id or new_id(), name=call.name, arguments=call.arguments)
            for index, call in enumerate(calls or ())
        ]
        return content or "", made if self._is_parallel else made[:1]


class _Pieces:
    def __init__(self, parser: Any, asked: Any, is_parallel: bool) -> None:
        self._parser, self._asked, self._is_parallel = parser, asked, is_parallel

    def read(self, text: str, ids: Sequence[int], is_last: bool) -> tuple[str, list[ToolCall]]:
        # The prompt's tokens would tell where thinking ends, which no parser of calls alone asks for.
        message = self._parser.parse_delta(text, list(ids), self._asked, prompt_token_ids=[], finished=is_last)
        if message is None:
            return "", []
        calls = [_piece(call) for call in message.tool_calls or ()]
        return message.content or "", [call for call in calls if self._is_parallel or not call.index]


def _piece(call: Any) -> ToolCall:
    name, arguments = (call.function.name, call.function.arguments) if call.function else (None, None)
    return ToolCall(index=call.index, id=call.id, name=name, arguments=arguments or "")
