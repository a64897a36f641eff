"""Rows in tokens, task by task: what is context, what is learned, what is cut."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from luthier.errors import BadDataset, ContextTooLong, InvalidInput
from luthier.platform.data import rendering
from luthier.platform.data.prompts import Message, Prompts, Sample, load_prompts
from luthier.platform.data.rendering import Rendering, Row, num_tokens, render, render_each
from luthier.platform.tasks import TaskType

LONG = "zxqv kjw " * 40
WORDS = st.text("abc xyz", min_size=1, max_size=30).filter(str.strip)
fast = hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def prompts(tiny_model: Path) -> Prompts:
    return load_prompts(tiny_model)


@pytest.fixture
def with_template(tiny_model: Path, tmp_path: Path) -> Callable[[str], Prompts]:
    """The tiny model's tokenizer with another chat template."""

    def make(template: str) -> Prompts:
        folder = tmp_path / "other"
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_model / file, folder)
        (folder / "chat_template.jinja").write_text(template)
        return Prompts(folder)

    return make


def how(task: TaskType = TaskType.CHAT_COMPLETION, prompt: int = 1000, answer: int = 1000, **given: Any) -> Rendering:
    return Rendering(task_type=task, max_prompt=prompt, max_completion=answer, **given)


def pair(prompt: str, completion: str) -> Row:
    return {"prompt": prompt, "completion": completion}


def chat(*turns: tuple[str, str]) -> Row:
    return {"messages": json.dumps(messages(*turns))}


def messages(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def one(row: Row, prompts: Prompts, how: Rendering) -> Sample:
    """The one document that a row becomes."""
    ((sample,),) = render([row], prompts, how)
    return sample


def turn(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def marked(sample: Sample, prompts: Prompts) -> str:
    """All text, with what is learned in brackets."""
    text, at = "", 0
    for start, end in sample.learned:
        text += f"{prompts.decode(sample.ids[at:start])}[{prompts.decode(sample.ids[start:end])}]"
        at = end
    return text + prompts.decode(sample.ids[at:])


# a prompt and its completion


def test_a_row_is_a_user_turn_and_its_answer(prompts: Prompts) -> None:
    sample = one(pair("what?", "42"), prompts, how())
    assert marked(sample, prompts) == turn("what?") + "[42<|im_end|>]"
    assert sample.ids[-1] == prompts.eos_id
    assert sample.num_learned == 2
    assert not sample.was_cut


def test_a_row_begins_as_the_chat_that_asks_for_it(prompts: Prompts) -> None:
    sample = one(pair("what?", "42"), prompts, how())
    ((start, _),) = sample.learned
    assert list(sample.ids[:start]) == prompts.chat(messages(("user", "what?")))


@pytest.mark.parametrize("limit", [14, 20, 33])
def test_a_long_prompt_loses_its_tail_and_keeps_the_template(prompts: Prompts, limit: int) -> None:
    whole, sample = (one(pair(LONG, "42"), prompts, how(prompt=most)) for most in (10_000, limit))
    ((start, _),) = sample.learned
    head = prompts.decode(sample.ids[:start])
    kept = head.removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n<|im_start|>assistant\n")
    assert sample.was_cut
    assert 0 < start <= limit < whole.learned[0][0]
    assert head == turn(kept)
    assert kept
    assert LONG.startswith(kept)
    assert sample.ids[start:] == whole.ids[whole.learned[0][0] :]


def test_a_long_completion_keeps_its_head_and_its_end(prompts: Prompts) -> None:
    sample = one(pair("what?", LONG), prompts, how(answer=7))
    ((start, end),) = sample.learned
    assert list(sample.ids[start:]) == [*prompts.encode(LONG)[:6], prompts.eos_id]
    assert end == len(sample.ids)
    assert sample.was_cut


def test_a_row_of_exactly_its_shares_is_not_cut(prompts: Prompts) -> None:
    row = pair("what is it?", "the answer")
    whole = one(row, prompts, how())
    ((start, end),) = whole.learned
    assert one(row, prompts, how(prompt=start, answer=end - start)) == whole
    assert one(row, prompts, how(prompt=start - 1, answer=end - start)).was_cut
    assert one(row, prompts, how(prompt=start, answer=end - start - 1)).was_cut


def test_a_share_below_the_template_is_refused(prompts: Prompts) -> None:
    with pytest.raises(BadDataset, match="Row 1: the prompt share of 3 tokens has no room beside the template"):
        render([pair("what?", "42")], prompts, how(prompt=3))


# conversations


def test_a_conversation_of_one_turn_is_a_prompt_and_its_completion(prompts: Prompts) -> None:
    """Also where it is cut, and whichever turns are learned."""
    for question, answer in (("what?", "42"), (LONG, "42"), ("what?", LONG), (LONG, LONG)):
        for train_on in ("last", "all"):
            limits = how(prompt=30, answer=9, train_on=train_on)
            row = chat(("user", question), ("assistant", answer))
            assert one(row, prompts, limits) == one(pair(question, answer), prompts, limits)


CONVERSATION = (("system", "be brief"), ("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d"))
MARKED = (
    "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\n"
    "{0}b<|im_end|>{1}\n<|im_start|>user\nc?<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]"
)


def test_the_last_answer_is_learned(prompts: Prompts) -> None:
    sample = one(chat(*CONVERSATION), prompts, how())
    assert marked(sample, prompts) == MARKED.format("", "")
    assert list(sample.ids[: sample.learned[0][0]]) == prompts.chat(messages(*CONVERSATION[:4]))


def test_all_answers_are_learned(prompts: Prompts) -> None:
    sample = one(chat(*CONVERSATION), prompts, how(train_on="all"))
    assert marked(sample, prompts) == MARKED.format("[", "]")


@fast
@given(system=st.one_of(st.none(), WORDS), said=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_before_each_answer_stands_what_the_server_asks_with(
    prompts: Prompts, system: str | None, said: list[tuple[str, str]]
) -> None:
    head = [("system", system)] if system is not None else []
    turns = [*head, *(turn for ask, answer in said for turn in (("user", ask), ("assistant", answer)))]
    sample = one(chat(*turns), prompts, how(train_on="all"))
    answers = [at for at, (role, _) in enumerate(turns) if role == "assistant"]
    assert len(sample.learned) == len(answers)
    for (start, end), at in zip(sample.learned, answers, strict=True):
        assert prompts.decode(sample.ids[:start]) == prompts.chat_text(messages(*turns[:at]))
        assert prompts.decode(sample.ids[start:end]) == turns[at][1] + "<|im_end|>"
    last = one(chat(*turns), prompts, how())
    assert list(last.ids[: last.learned[0][0]]) == prompts.chat(messages(*turns[:-1]))
    assert prompts.decode(last.ids) == prompts.decode(sample.ids)


@pytest.mark.parametrize("limit", [27, 40, 60])
def test_a_long_conversation_loses_its_oldest_turns(prompts: Prompts, limit: int) -> None:
    """The system's message stays, and the answer that is learned."""
    turns = [("system", "s"), *[("user", f"q{n}") if n % 2 == 0 else ("assistant", f"a{n}") for n in range(20)]]
    sample = one(chat(*turns), prompts, how(prompt=limit))
    ((start, end),) = sample.learned
    assert start <= limit
    assert sample.was_cut
    assert prompts.decode(sample.ids[start:end]) == "a19<|im_end|>"
    kept = next(n for n in range(3, 20, 2) if len(prompts.chat(messages(turns[0], *turns[n:-1]))) <= limit)
    assert list(sample.ids[:start]) == prompts.chat(messages(turns[0], *turns[kept:-1]))


def test_a_lone_turn_beside_the_system_message_loses_its_tail(prompts: Prompts) -> None:
    sample = one(chat(("system", "be brief"), ("user", LONG), ("assistant", "d")), prompts, how(prompt=40))
    text = prompts.decode(sample.ids)
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nzxqv")
    assert sample.learned[0][0] <= 40
    assert marked(sample, prompts).endswith("<|im_start|>assistant\n[d<|im_end|>]")


def test_a_system_message_longer_than_the_share_is_refused(prompts: Prompts) -> None:
    rows = [chat(("system", LONG), ("user", "a"), ("assistant", "b"))]
    errors: list[InvalidInput] = []
    assert list(render_each(rows, prompts, how(prompt=40), lambda _, error: errors.append(error))) == []
    assert isinstance(errors[0], ContextTooLong)


def test_when_all_answers_are_learned_a_long_conversation_is_cut_at_its_end(prompts: Prompts) -> None:
    turns = [("user", "q") if n % 2 == 0 else ("assistant", f"answer {n}") for n in range(20)]
    whole = one(chat(*turns), prompts, how(train_on="all"))
    for most in (30, 31, 45, 60):
        cut = one(chat(*turns), prompts, how(prompt=20, answer=most - 20, train_on="all"))
        assert cut.ids == whole.ids[:most]
        assert cut.was_cut
        assert cut.learned == tuple((start, min(end, most)) for start, end in whole.learned if start < most)


def test_when_all_answers_are_learned_a_long_first_prompt_is_cut(prompts: Prompts) -> None:
    turns = [("user", LONG), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
    sample = one(chat(*turns), prompts, how(prompt=30, train_on="all"))
    assert sample.was_cut
    assert sample.learned[0][0] <= 30
    assert marked(sample, prompts).endswith("[b<|im_end|>]\n" + turn("c?") + "[d<|im_end|>]")


@fast
@given(
    said=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5),
    prompt=st.integers(20, 80),
    answer=st.integers(2, 60),
    train_on=st.sampled_from(["last", "all"]),
)
def test_shares_are_never_passed(
    prompts: Prompts, said: list[tuple[str, str]], prompt: int, answer: int, train_on: str
) -> None:
    limits = how(prompt=prompt, answer=answer, train_on=train_on)
    turns = [turn for ask, told in said for turn in (("user", ask), ("assistant", told))]
    sample = one(chat(*turns), prompts, limits)
    assert sample.learned[0][0] <= prompt
    assert len(sample.ids) <= limits.max_tokens
    assert all(start < end <= len(sample.ids) for start, end in sample.learned)
    if train_on == "last":
        assert sample.num_learned <= answer
        assert sample.ids[-1] == prompts.eos_id


def test_a_template_that_rewrites_earlier_turns(with_template: Callable[[str], Prompts]) -> None:
    """As those do that drop the thoughts of all turns but the last."""
    prompts = with_template("{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else '-' }}\n{% endfor %}A:")
    row = chat(*CONVERSATION[1:])
    assert marked(one(row, prompts, how()), prompts) == "user:-\nassistant:-\nuser:c?\nA:[d<|im_end|>]"
    with pytest.raises(BadDataset, match=r"Row 1: .*earlier turns anew.*use train_on last"):
        render([row], prompts, how(train_on="all"))


def test_a_template_without_a_system_role(with_template: Callable[[str], Prompts]) -> None:
    prompts = with_template(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(BadDataset, match=r"Row 2: .*template refuses.*no system role"):
        render([chat(*CONVERSATION[1:]), chat(*CONVERSATION)], prompts, how())


# plain prompts, pairs, text


def test_an_instruction_stands_as_it_is(prompts: Prompts) -> None:
    sample = one(pair("what? ", "42"), prompts, how(TaskType.INSTRUCTION_FINETUNE))
    assert marked(sample, prompts) == "what? [42<|im_end|>]"


def test_a_long_instruction_keeps_its_end(prompts: Prompts) -> None:
    """The completion follows it."""
    sample = one(pair(LONG + "so:", LONG), prompts, how(TaskType.INSTRUCTION_FINETUNE, prompt=10, answer=5))
    assert list(sample.ids) == [*prompts.encode(LONG + "so:")[-10:], *prompts.encode(LONG)[:4], prompts.eos_id]
    assert sample.learned == ((10, 15),)
    assert sample.was_cut


def test_a_preference_is_two_answers_to_one_prompt(prompts: Prompts) -> None:
    row = {"prompt": "what?", "chosen": "42", "rejected": "no"}
    ((chosen, rejected),) = render([row], prompts, how(TaskType.DPO))
    assert chosen == one(pair("what?", "42"), prompts, how())
    assert rejected == one(pair("what?", "no"), prompts, how())
    assert num_tokens((chosen, rejected)) == len(chosen.ids) + len(rejected.ids)


def test_both_of_a_long_preference_are_cut_alike(prompts: Prompts) -> None:
    row = {"prompt": LONG, "chosen": LONG, "rejected": ""}
    ((chosen, rejected),) = render([row], prompts, how(TaskType.DPO, prompt=30, answer=7))
    assert chosen == one(pair(LONG, LONG), prompts, how(prompt=30, answer=7))
    head = chosen.ids[: chosen.learned[0][0]]
    assert rejected.ids == (*head, prompts.eos_id)
    assert rejected.was_cut


def test_text_is_learned_from_its_second_token(prompts: Prompts) -> None:
    sample = one({"text": "what is it?"}, prompts, how(TaskType.CONTINUED_PRETRAIN))
    assert list(sample.ids) == [*prompts.encode("what is it?"), prompts.eos_id]
    assert sample.learned == ((1, len(sample.ids)),)


@fast
@given(num_words=st.integers(0, 60), limit=st.integers(3, 40))
def test_long_text_fills_one_context_after_the_other(prompts: Prompts, num_words: int, limit: int) -> None:
    text = "zx " * num_words
    samples = [
        sample for (sample,) in render([{"text": text}], prompts, how(TaskType.CONTINUED_PRETRAIN, 1, limit - 1))
    ]
    ids = [*prompts.encode(text), prompts.eos_id]
    told = [token for sample in samples for token in sample.ids]
    assert told == (ids if len(ids) % limit != 1 else ids[:-1])
    assert all(len(sample.ids) == limit for sample in samples[:-1])
    assert all(sample.learned == ((1, len(sample.ids)),) for sample in samples)
    assert not any(sample.was_cut for sample in samples)


def test_a_very_long_text_is_tokenised_in_sections(prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "what is\n the answer? " * 300
    ((whole,),) = render([{"text": text}], prompts, how(TaskType.CONTINUED_PRETRAIN, 9000, 9000))
    monkeypatch.setattr(rendering, "SECTION_CHARACTERS", 1000)
    ((parted,),) = render([{"text": text}], prompts, how(TaskType.CONTINUED_PRETRAIN, 9000, 9000))
    assert parted == whole
    blank = "x" * 5500
    ((unparted,),) = render([{"text": blank}], prompts, how(TaskType.CONTINUED_PRETRAIN, 9000, 9000))
    assert prompts.decode(unparted.ids) == blank + prompts.eos_text


# many rows


def test_many_rows_are_as_each_alone(prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [pair(f"question {number} {'why ' * (number % 9)}", f"answer {number}") for number in range(50)]
    alone = [one(row, prompts, how(prompt=25)) for row in rows]
    for chunk in (1, 7, 50, 1024):
        monkeypatch.setattr(rendering, "CHUNK_ROWS", chunk)
        assert [sample for (sample,) in render(rows, prompts, how(prompt=25))] == alone
    monkeypatch.setattr(rendering, "CHUNK_CHARACTERS", 10)
    assert [sample for (sample,) in render(rows, prompts, how(prompt=25))] == alone
    assert render([], prompts, how()) == []


def test_rows_that_are_refused_are_numbered_and_the_others_go_on(prompts: Prompts) -> None:
    rows = [pair("a", "b"), chat(("system", LONG), ("user", "a"), ("assistant", "b")), pair("c", "d")]
    refused: list[int] = []
    rendered = dict(render_each(rows, prompts, how(prompt=40), lambda number, _: refused.append(number)))
    assert sorted(rendered) == [1, 3]
    assert refused == [2]
    with pytest.raises(BadDataset, match="Row 2: "):
        render(rows, prompts, how(prompt=40))
