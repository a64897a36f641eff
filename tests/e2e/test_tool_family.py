"""vLLM's parsers of calls, as its server is not around them: text as each family writes it, whole and in pieces."""

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import InvalidInput
from luthier.platform.base_models import load_catalog
from luthier.platform.data.prompts import load_prompts
from luthier.platform.settings import Settings
from luthier.platform.wire import ToolUse
from luthier.serve.engines.tool_family import Family

pytestmark = pytest.mark.e2e

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "time")]
MADE = [("weather", {"city": 'K\u00f6ln "am Rhein"'}), ("time", {"city": "Rome"})]


def written(key: str) -> list[str]:
    return [json.dumps({"name": name, key: arguments}, ensure_ascii=False) for name, arguments in MADE]


TEXTS = {
    "hermes": "".join(f"<tool_call>\n{call}\n</tool_call>\n" for call in written("arguments")),
    "llama3_json": "; ".join(written("parameters")),
    "mistral": f"[TOOL_CALLS] [{', '.join(written('arguments'))}]",
}
MARKS = {"hermes": "<tool_call>", "llama3_json": "<|python_tag|>", "mistral": "[TOOL_CALLS]"}


@pytest.fixture
def tokenizer(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    """The tiny one, which knows the mark of the family."""
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast.from_pretrained(str(tiny_model))
    made.add_tokens(list(MARKS.values()), special_tokens=True)
    return made


def read(family: Family, tokenizer: Any, text: str, is_streamed: bool, is_parallel: bool = True) -> tuple[str, Any]:
    """Text and calls of an answer, a token at a time when streamed."""
    asked = family.asked(ToolUse(tools=TOOLS))
    reader = family.calls(asked, is_streamed, is_parallel)
    ids = tokenizer.encode(text, add_special_tokens=False)
    steps = list(range(1, len(ids) + 1)) if is_streamed else [len(ids)]
    said, done, made = "", ("", 0), dict[int, list[str]]()
    for step in steps:
        now = tokenizer.decode(ids[:step], skip_special_tokens=asked.skip_special_tokens)
        if now.endswith("\ufffd"):
            continue
        piece, calls = reader.read(now[len(done[0]) :], ids[done[1] : step], step == len(ids))
        said, done = said + piece, (now, step)
        for call in calls:
            name, arguments = made.setdefault(call.index, ["", ""])
            made[call.index] = [name or call.name or "", arguments + call.arguments]
    return said, [(name, json.loads(arguments)) for name, arguments in made.values()]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", TEXTS)
def test_calls(name: str, is_streamed: bool, tokenizer: Any) -> None:
    family = Family(name, tokenizer)
    assert read(family, tokenizer, TEXTS[name], is_streamed) == ("", MADE)
    assert read(family, tokenizer, TEXTS[name], is_streamed, is_parallel=False) == ("", MADE[:1])
    said = "No call, just { words."
    assert read(family, tokenizer, said, is_streamed) == (said, [])


def test_text_before_a_call(tokenizer: Any) -> None:
    family = Family("hermes", tokenizer)
    for is_streamed in (False, True):
        said, calls = read(family, tokenizer, "Let me see. " + TEXTS["hermes"], is_streamed)
        assert (said.strip(), calls) == ("Let me see.", MADE)


def test_parsers_of_the_catalog_are_vllms(settings: Settings, tokenizer: Any) -> None:
    named = {base.engine.tool_parser for base in load_catalog(settings)} - {None}
    assert named == set(TEXTS)


def test_a_parser_that_is_not_there(tokenizer: Any, tiny_model: Path) -> None:
    with pytest.raises(InvalidInput, match="'nothing'"):
        Family("nothing", tokenizer)
    with pytest.raises(InvalidInput, match="python_tag"):
        Family("llama3_json", load_prompts(tiny_model).tokenizer)
