"""Prompts: text to tokens and back, and rows cut at their shares."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from luthier.errors import InvalidInput, Unavailable
from luthier.platform.prompts import Prompts, load_prompts


@pytest.fixture
def prompts(tiny_model: Path) -> Prompts:
    return load_prompts(tiny_model)


def decoded(prompts: Prompts, ids: tuple[int, ...] | list[int]) -> str:
    return str(prompts._tokenizer.decode(list(ids), skip_special_tokens=False))


def turn(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<|"), max_size=60))
def test_text_comes_back_from_its_tokens(prompts: Prompts, text: str) -> None:
    assert decoded(prompts, prompts.encode(text)) == text


def test_a_row_is_a_user_turn_and_its_answer(prompts: Prompts) -> None:
    sample = prompts.sample("what?", "42", 100, 100)
    assert decoded(prompts, sample.ids[: sample.num_prompt]) == turn("what?")
    assert decoded(prompts, sample.ids[sample.num_prompt :]) == "42<|im_end|>"
    assert sample.ids[-1] == prompts.eos_id
    assert not sample.was_cut


def test_a_row_begins_as_the_chat_that_asks_for_it(prompts: Prompts) -> None:
    sample = prompts.sample("what?", "42", 100, 100)
    assert list(sample.ids[: sample.num_prompt]) == prompts.chat([{"role": "user", "content": "what?"}])


@pytest.mark.parametrize("limit", [14, 20, 33])
def test_a_long_prompt_loses_its_tail_and_keeps_the_template(prompts: Prompts, limit: int) -> None:
    long = "zxqv kjw " * 40
    whole = prompts.sample(long, "42", 10_000, 100)
    sample = prompts.sample(long, "42", limit, 100)
    head = decoded(prompts, sample.ids[: sample.num_prompt])
    kept = head.removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n<|im_start|>assistant\n")
    assert sample.was_cut
    assert 0 < sample.num_prompt <= limit < whole.num_prompt
    assert head == turn(kept)
    assert kept
    assert long.startswith(kept)
    assert sample.ids[sample.num_prompt :] == whole.ids[whole.num_prompt :]


def test_a_long_completion_keeps_its_head_and_its_end(prompts: Prompts) -> None:
    body = prompts.encode("zxqv kjw " * 40)
    sample = prompts.sample("what?", "zxqv kjw " * 40, 100, 7)
    assert list(sample.ids[sample.num_prompt :]) == [*body[:6], prompts.eos_id]
    assert sample.was_cut


def test_a_row_of_exactly_its_shares_is_not_cut(prompts: Prompts) -> None:
    whole = prompts.sample("what is it?", "the answer", 100, 100)
    exact = prompts.sample("what is it?", "the answer", whole.num_prompt, len(whole.ids) - whole.num_prompt)
    assert exact == whole


def test_a_share_below_the_template_is_refused(prompts: Prompts) -> None:
    with pytest.raises(InvalidInput, match="share of 3 tokens"):
        prompts.sample("what?", "42", 3, 100)


def test_messages_that_the_template_refuses(prompts: Prompts) -> None:
    with pytest.raises(InvalidInput, match="chat template refuses"):
        prompts.chat([{"content": "no role"}])


def test_a_base_model_that_was_never_fetched(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="luthier up"):
        Prompts(tmp_path / "smollm2-135m@1")
