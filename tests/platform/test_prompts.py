"""Prompts: text to tokens and back, and conversations through the base model's template."""

import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from luthier.errors import InvalidInput, InvalidValue, NotFetched
from luthier.platform.data.prompts import Prompts, load_prompts

USER = {"role": "user", "content": "what?"}
texts = st.text(st.characters(codec="utf-8", exclude_characters="<|"), max_size=60)


@pytest.fixture
def prompts(tiny_model: Path) -> Prompts:
    return load_prompts(tiny_model)


@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts)
def test_text_comes_back_from_its_tokens(prompts: Prompts, text: str) -> None:
    assert prompts.decode(prompts.encode(text)) == text


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many=st.lists(texts, max_size=9))
def test_many_texts_are_as_each_alone(prompts: Prompts, many: list[str]) -> None:
    assert prompts.encode_all(many) == [prompts.encode(text) for text in many]


@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts)
def test_no_token_is_longer_than_the_longest(prompts: Prompts, text: str) -> None:
    assert len(text) <= len(prompts.encode(text)) * prompts.longest_token


def test_nothing_is_added_and_special_tokens_count_as_such(prompts: Prompts) -> None:
    assert prompts.encode("") == []
    assert prompts.encode(prompts.eos_text) == [prompts.eos_id]
    assert prompts.decode([prompts.eos_id]) == prompts.eos_text == "<|im_end|>"


def test_a_chat_is_open_for_the_answer(prompts: Prompts) -> None:
    text = "<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.chat_text([USER]) == text
    assert prompts.chat([USER]) == prompts.encode(text)


def test_long_texts_are_neither_cut_nor_padded(prompts: Prompts) -> None:
    short, long = prompts.encode_all(["a", "what is it? " * 5000])
    assert len(short) == 1
    assert prompts.decode(long) == "what is it? " * 5000


def test_many_threads_may_ask_at_once(prompts: Prompts) -> None:
    """The server renders in several threads with one tokenizer."""
    wanted, found = prompts.encode_all(["what is the answer?"] * 50), []
    threads = [
        threading.Thread(target=lambda: found.append(prompts.encode_all(["what is the answer?"] * 50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 8


def test_messages_that_the_template_refuses(prompts: Prompts) -> None:
    with pytest.raises(InvalidInput, match="chat template refuses"):
        prompts.chat([{"content": "no role"}])


def test_a_base_model_that_was_never_fetched(tmp_path: Path) -> None:
    with pytest.raises(NotFetched, match="is not on this server: `luthier base-models fetch smollm2-135m`"):
        Prompts(tmp_path / "smollm2-135m@1")


TOOLS = [{"type": "function", "function": {"name": "weather"}}]
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
HISTORY = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
]


def test_tools_go_through_the_template(prompts: Prompts) -> None:
    assert '"name": "weather"' in prompts.chat_text([USER], TOOLS)
    assert '{"name": "weather", "arguments": {"city": "Rome"}}' in prompts.chat_text(HISTORY)
    assert prompts.chat_text([USER], None) == prompts.chat_text([USER])


def test_a_template_without_tools(tiny_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "plain"))
    (copy / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    plain = Prompts(copy)
    assert plain.chat_text([USER]) == "what?"
    for messages, tools in (([USER], TOOLS), (HISTORY, None), (HISTORY[2:], None)):
        with pytest.raises(InvalidValue, match="no tools in its chat template") as caught:
            plain.chat_text(messages, tools)
        assert caught.value.param == "tools"
