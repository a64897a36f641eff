"""Messages and tools as OpenAI's clients send them, brought to what chat templates take."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import from_json

from luthier.platform.frozen import ListOf, Strict
from luthier.platform.wire import ToolUse, Turn
from luthier.serve.doors.json_size import JsonSize
from luthier.serve.doors.refusals import invalid, missing
from luthier.serve.doors.schemas import calls_schema, check_schema, check_together

NAME = r"^[A-Za-z0-9_-]{1,64}$"


class TextPart(Strict):
    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    name: str
    arguments: str


class PastCall(Strict):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | ListOf[TextPart] | None = None
    name: str | None = None
    tool_calls: ListOf[PastCall] | None = None
    tool_call_id: str | None = None

    def turn(self, number: int, size: JsonSize) -> Turn:
        """`number` says which message it is, `size` what all have to be read."""
        role, content = self.role, self.content
        turn: Turn = {
            "role": "system" if role == "developer" else role,
            "content": content if isinstance(content, str) else self._text(number),
        }
        if self.name is not None:
            turn["name"] = self.name
        if self.tool_calls is not None or self.tool_call_id is not None or role == "tool":
            self._add_tools(turn, f"messages[{number}]", size)
        return turn

    def _text(self, number: int) -> str:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise missing(f"messages[{number}].content")
        return "".join(part.text for part in self.content or () if isinstance(part, TextPart))

    def _add_tools(self, turn: Turn, place: str, size: JsonSize) -> None:
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise invalid(f"{place}.tool_call_id", "messages of the role 'tool' have one, and no others")
        if self.tool_calls and self.role != "assistant":
            raise invalid(f"{place}.tool_calls", "only messages of the role 'assistant' have them")
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            calls = enumerate(self.tool_calls)
            turn["tool_calls"] = [_past(call, f"{place}.tool_calls[{at}]", size) for at, call in calls]


class Function(Strict):
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    name: str = Field(max_length=64)


class NamedTool(Strict):
    type: Literal["function"]
    function: FunctionName


class Allowed(Strict):
    mode: Literal["auto", "required"]
    tools: ListOf[NamedTool] = Field(min_length=1, max_length=128)


class AllowedTools(Strict):
    """Some of the tools: the others are as if they were not there."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


ToolChoice = Literal["none", "auto", "required"] | NamedTool
AnyToolChoice = Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedTools, Field(discriminator="type")]


def allowed(tools: list[Tool], choice: AnyToolChoice | None) -> tuple[list[Tool], ToolChoice | None]:
    """The tools that may be called, and how."""
    if not isinstance(choice, AllowedTools):
        return tools, choice
    names = {each.function.name for each in choice.allowed_tools.tools}
    if unknown := names - {each.function.name for each in tools}:
        raise invalid("tool_choice", f"'tools' has no function '{min(unknown)}'")
    return [each for each in tools if each.function.name in names], choice.allowed_tools.mode


def tool_use(tools: list[Tool] | None, choice: ToolChoice | None, is_parallel: bool) -> ToolUse | None:
    """What the model is told of tools; None when it is to call none."""
    if not tools:
        if choice not in (None, "none"):
            raise invalid("tool_choice", "it is only allowed with 'tools'")
        return None
    if choice == "none":
        return None
    names = [tool.function.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise invalid("tools", f"two of them are named '{twice}'")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise invalid("tool_choice", f"'tools' has no function '{choice.function.name}'")
    return ToolUse(
        tools=[tool.model_dump(exclude_none=True) for tool in tools],
        is_forced=choice not in (None, "auto"),
        is_named=isinstance(choice, NamedTool),
        is_parallel=is_parallel,
    )


def forced_schema(tools: list[Tool], choice: ToolChoice | None, is_parallel: bool) -> dict[str, Any]:
    """What an answer is held to that must call a tool."""
    named = choice.function.name if isinstance(choice, NamedTool) else None
    chosen = {at: tool.function for at, tool in enumerate(tools) if named in (None, tool.function.name)}
    parameters = {each.name: _checked(each.parameters, at) for at, each in chosen.items()}
    check_together([each for each in parameters.values() if each is not None], "tools")
    return calls_schema(parameters, most=None if is_parallel and named is None else 1)


def _checked(parameters: dict[str, Any] | None, at: int) -> dict[str, Any] | None:
    if parameters is None:
        return None
    place = f"tools[{at}].function.parameters"
    if parameters.get("type") != "object":
        raise invalid(place, "a schema of the type 'object' is expected")
    return check_schema(parameters, place)


def _past(call: PastCall, place: str, size: JsonSize) -> dict[str, Any]:
    """Templates write the arguments themselves, out of an object: that is JSON within the body's."""
    size.add(call.function.arguments.encode())
    try:
        arguments = from_json(call.function.arguments or "{}")
    except ValueError as error:
        raise invalid(f"{place}.function.arguments", f"not valid JSON: {error}") from error
    return {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": arguments}}
