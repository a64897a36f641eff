"""vLLM's outputs as choices. Outputs here have vLLM's fields; tests/e2e/test_engine.py has its own."""

import math
import pickle
from types import SimpleNamespace
from typing import Any

from luthier.platform.wire import Choice, CompleteRequest, TokenLogprob, ToolUse
from luthier.serve.engines.reading import LEAST_LOGPROB, Reader, plain_choices
from luthier.serve.engines.tool_calls import ForcedCalls

TOOLS = [{"type": "function", "function": {"name": "f"}}]


def request(**given: Any) -> CompleteRequest:
    return CompleteRequest(model="tiny", prompt="ab", **given)


def place(*ranked: tuple[int, str, float, int]) -> dict[int, Any]:
    """Of (token, text, logprob, rank), the one that was taken first."""
    return {
        token: SimpleNamespace(decoded_token=text, logprob=number, rank=rank) for token, text, number, rank in ranked
    }


def output(
    *choices: tuple[int, str, str | None], places: Any = None, of_prompt: Any = None, stop: str | None = None
) -> Any:
    """Of (index, text, finish_reason); `stop` is the text that ended them."""
    ids = [next(iter(each)) for each in places or ()]
    made = [
        SimpleNamespace(index=index, text=text, finish_reason=finish, stop_reason=stop, token_ids=ids, logprobs=places)
        for index, text, finish in choices
    ]
    return SimpleNamespace(outputs=made, prompt_logprobs=of_prompt)


def test_plain_choices() -> None:
    assert plain_choices(output((1, "a", None), (0, "b", "stop"))) == [
        Choice(index=1, text="a"),
        Choice(index=0, text="b", finish_reason="stop"),
    ]


def test_the_likeliest_are_by_rank() -> None:
    rare = place((9, "z", -7.0, 300), (1, "a", -0.1, 1), (2, "b", -0.2, 2))
    sure = place((1, "a", -0.1, 1), (2, "b", -math.inf, 2))
    for num_top, tops in ((0, ((), ())), (1, ((("a", -0.1),),) * 2)):
        (choice,) = Reader(request(logprobs=num_top), None, None).choices(output((0, "za", None), places=[rare, sure]))
        assert choice.logprobs == [TokenLogprob("z", -7.0, tops[0]), TokenLogprob("a", -0.1, tops[1])]
    (choice,) = Reader(request(logprobs=2), None, None).choices(output((0, "a", None), places=[sure]))
    assert choice.logprobs == [TokenLogprob("a", -0.1, (("a", -0.1), ("b", LEAST_LOGPROB)))]


def test_each_choice_begins_with_the_prompt_once() -> None:
    first, second = [None, place((5, "b", -2.0, 9), (6, "c", -0.5, 1))], [place((1, "x", -1.0, 1))]
    reader = Reader(request(echo=True, logprobs=1), ("ab", "a"), None)
    begun = reader.choices(output((0, "x", None), (1, "x", None), places=second, of_prompt=first))
    assert [each.text for each in begun] == ["abx", "abx"]
    echoed = [TokenLogprob("a", None, ()), TokenLogprob("b", -2.0, (("c", -0.5),))]
    assert [each.logprobs for each in begun] == [[*echoed, TokenLogprob("x", -1.0, (("x", -1.0),))]] * 2
    (more,) = reader.choices(output((0, "x", "length"), places=second))
    assert (more.text, len(more.logprobs or ())) == ("x", 1)


def test_the_end_of_a_sequence_is_no_token_of_the_text() -> None:
    places = [place((1, "a", -0.1, 1)), place((2, "<end>", -0.1, 1))]
    for stop, num in ((None, 1), (".", 2)):
        reader = Reader(request(logprobs=0), None, None)
        (choice,) = reader.choices(output((0, "a", "stop"), places=places, stop=stop))
        assert len(choice.logprobs or ()) == num


def test_whoever_has_the_prompts_tokens_counts_from_the_end() -> None:
    """lm-evaluation-harness asks for one token, and takes the last for it; or for none, and takes none."""
    first, made = [None, place((5, "b", -2.0, 1))], [place((2, "<end>", -0.1, 1))]
    for num, told, finish in ((1, [None, -2.0, -0.1], "stop"), (0, [None, -2.0], "length")):
        reader = Reader(request(echo=True, logprobs=0, max_tokens=num), ("ab", "a"), None)
        (choice,) = reader.choices(output((0, "", "stop"), places=made, of_prompt=first))
        assert [each.logprob for each in choice.logprobs or ()] == told
        assert (choice.text, choice.finish_reason) == ("ab", finish)


def test_an_echo_without_probabilities() -> None:
    (choice,) = Reader(request(echo=True), ("ab", "a"), None).choices(output((0, "x", None)))
    assert choice == Choice(index=0, text="abx")


def test_what_ends_a_choice_with_calls() -> None:
    text = '[{"name": "f", "parameters": {}}]'
    for is_named, finish, expected in (
        (False, "stop", "tool_calls"),
        (True, "stop", "stop"),
        (False, "length", "length"),
    ):
        use = ToolUse(tools=TOOLS, is_forced=True, is_named=is_named)
        reader = Reader(request(tools=use), None, ForcedCalls)
        (begun,) = reader.choices(output((0, text[:30], None)))
        assert [call.name for call in begun.tool_calls or ()] == ["f"]
        (last,) = reader.choices(output((0, text[30:], finish)))
        assert (last.text, last.finish_reason) == ("", expected)


def test_a_piece_without_anything_is_not_sent() -> None:
    reader = Reader(request(tools=ToolUse(tools=TOOLS, is_forced=True)), None, ForcedCalls)
    assert reader.choices(output((0, '[{"na', None))) == []
    assert len(reader.choices(output((0, "", "length")))) == 1


def test_choices_go_through_a_handle() -> None:
    (choice,) = Reader(request(logprobs=1), None, None).choices(
        output((0, "a", None), places=[place((1, "a", -0.1, 1))])
    )
    assert pickle.loads(pickle.dumps(choice)) == choice
