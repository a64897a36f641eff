"""CREATE's options: every key with the ends of its range, what is refused and how, and the way through the store."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from luthier.errors import InvalidInput
from luthier.platform.jobs import Job
from luthier.platform.options import BatchSize, Duration, FinetuneOptions, Method, Unit, parse_options
from luthier.platform.registry.registry import Registry
from luthier.platform.tasks import TaskType
from tests.factories import ADMIN, make_job
from tests.fakes import Launcher

ACCEPTED: dict[str, list[Any]] = {
    "task_type": ["CHAT_COMPLETION", "INSTRUCTION_FINETUNE", "CONTINUED_PRETRAIN", "DPO"],
    "method": ["lora", "qlora", "full"],
    "max_epochs": [1, 10],
    "training_duration": ["1ep", "200ba", "1_000_000tok", " 3ep "],
    "learning_rate": [1e-9, 0.1, 1e-4],
    "schedule": ["linear", "cosine", "constant"],
    "warmup_share": [0, 0.0, 1.0],
    "weight_decay": [0, 1.0],
    "batch_size": [1, 4096, "8", "16tok", "16_384tok", "16777216tok", "auto"],
    "context_length": [16, 131072],
    "activation_checkpointing": ["auto", "on", "off"],
    "seed": [0, 2**31 - 1],
    "lora_rank": [1, 256],
    "lora_alpha": [1, 1024],
    "lora_dropout": [0.0, 0.999],
    "lora_targets": [["q_proj"], ["q_proj", "v_proj"], "all-linear"],
    "train_on": ["last", "all"],
    "dpo_beta": [1e-6, 10.0],
    "on_overlong": ["truncate", "drop", "error"],
    "eval_prompts": [[], ["why?"], ["why?"] * 16],
    "budget_credits": ["0", "12.5", "0.000001", 3, 0.25, 0.00001, "999999999999"],
    "on_budget": ["refuse", "shorten"],
    "continue_from": ["m", "m@3", "ft_1"],
    "new_version": [True, False],
    "promote": [True, False],
    "priority": ["low", "normal", "high"],
    "num_workers": [1, 1024],
    "max_workers": [1024],
}
REFUSED: dict[str, list[Any]] = {
    "task_type": ["dpo", "", 1, ["DPO"]],
    "method": ["LORA", "adapter", True],
    "max_epochs": [0, 11, "3", 2.5, True, [3]],
    "training_duration": ["0ep", "3", "ep", "3epochs", "-1ep", "1.5ep", 3, 3.0, ["3ep"], "1ep 2ep", "9" * 30 + "tok"],
    "learning_rate": [0, -1e-4, 0.11, "1e-4", True, float("nan"), float("inf")],
    "schedule": ["step", 1],
    "warmup_share": [-0.1, 1.1, "0.1", float("nan")],
    "weight_decay": [-0.1, 1.1, float("nan")],
    "batch_size": [0, -1, 4097, 2.5, True, "0", "15tok", "16777217tok", "tok", "Auto", "8 rows", [8], "9" * 30],
    "context_length": [15, "512", 512.5],
    "activation_checkpointing": ["On", True, 1],
    "seed": [-1, 2**31, 0.5, "0"],
    "lora_rank": [0, 257, "8"],
    "lora_alpha": [0, 1025, 1.5],
    "lora_dropout": [-0.1, 1.0, "0"],
    "lora_targets": [[], "q_proj", [1], {"a": 1}],
    "train_on": ["first", 1],
    "dpo_beta": [0, -1, 10.1],
    "on_overlong": ["cut", True],
    "eval_prompts": [["why?"] * 17, "why?", [3], [None]],
    "budget_credits": ["-1", "1.", ".5", "0.0000001", "1e3", "much", True, -1, 1e-7, [1], "9" * 13],
    "on_budget": ["hard", True],
    "continue_from": ["", 3],
    "new_version": [1, "true"],
    "promote": ["V3", 1],
    "priority": ["urgent", 1],
    "num_workers": [0, 1025, "2"],
    "max_workers": [1, 1025, "2"],
}
NEEDS: dict[str, dict[str, Any]] = {
    "dpo_beta": {"task_type": "DPO"},
    "promote": {"new_version": True},
    "on_budget": {"budget_credits": "1"},
}


def values(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value!r:.30}") for name, each in table.items() for value in each]


def test_every_key_is_tried() -> None:
    assert set(ACCEPTED) == set(REFUSED) == set(FinetuneOptions.model_fields)


@pytest.mark.parametrize(("name", "value"), values(ACCEPTED))
def test_what_a_key_takes(name: str, value: Any) -> None:
    parsed = parse_options({name: value, **NEEDS.get(name, {})})
    shown, defaults = parsed.model_dump(mode="json"), parse_options({}).model_dump(mode="json")
    assert shown.pop(name) == value or (name == "budget_credits" and float(getattr(parsed, name)) == value)
    assert all(shown[each] == defaults[each] for each in shown if each not in NEEDS.get(name, {}))


@pytest.mark.parametrize(("name", "value"), values(REFUSED))
def test_what_a_key_refuses(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_options({name: value, **NEEDS.get(name, {})})
    message = caught.value.message
    assert message.startswith(f"Option {name}")
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("name", FinetuneOptions.model_fields)
def test_null_is_not_given(name: str) -> None:
    assert parse_options({name: None}) == parse_options(None) == parse_options({})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("epochs", "max_epochs"),
        ("Learning_Rate", "learning_rate"),
        ("gradient_checkpointing", "activation_checkpointing"),
        ("batchsize", "batch_size"),
        ("lora_r", "lora_rank"),
        ("eval_prompt", "eval_prompts"),
        ("training_durations", "training_duration"),
    ],
)
def test_a_misspelt_key_is_told_its_nearest(written: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=f"Unknown option '{written}'. Did you mean {meant}[?] Options: method, "):
        parse_options({written: 3})


def test_a_key_like_none_gets_no_guess() -> None:
    with pytest.raises(InvalidInput, match=r"Unknown option 'zzzz'\. Options: method, learning_rate"):
        parse_options({"zzzz": None})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_epochs": 3, "training_duration": "3ep"}, "max_epochs and training_duration both say"),
        ({"method": "full", "lora_rank": 8}, "lora_rank: method full"),
        ({"method": "full", "lora_targets": "all-linear"}, "lora_targets: method full"),
        ({"dpo_beta": 0.2}, "dpo_beta: it is for task_type DPO, and this job is CHAT_COMPLETION"),
        ({"train_on": "all", "task_type": "DPO"}, "train_on: it is for task_type CHAT_COMPLETION"),
        ({"on_budget": "shorten"}, "on_budget: it says what budget_credits does"),
        ({"seed": {1}}, "not JSON"),
        ({"continue_from": "\ud800"}, "cannot be read"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_options(options)


@pytest.mark.parametrize(
    ("text", "num", "unit"),
    [("3ep", 3, Unit.EPOCHS), ("200ba", 200, Unit.BATCHES), ("1_000_000tok", 10**6, Unit.TOKENS), ("3 ep", 3, "ep")],
)
def test_durations(text: str, num: int, unit: Unit) -> None:
    assert parse_options({"training_duration": text}).duration == Duration(num=num, unit=unit)


def test_epochs_are_a_duration() -> None:
    assert parse_options({}).duration == Duration(num=3, unit=Unit.EPOCHS)
    assert parse_options({"max_epochs": 7}).duration == Duration(num=7, unit=Unit.EPOCHS)


@pytest.mark.parametrize(
    ("value", "batch"),
    [(8, BatchSize(rows=8)), ("8", BatchSize(rows=8)), ("16_384tok", BatchSize(tokens=16384)), ("auto", None)],
)
def test_batch_sizes(value: Any, batch: BatchSize | None) -> None:
    assert parse_options({"batch_size": value}).batch == batch


def test_alpha_is_twice_the_rank_unless_given() -> None:
    assert parse_options({"lora_rank": 4}).alpha == 8
    assert parse_options({"lora_rank": 4, "lora_alpha": 4}).alpha == 4


def test_workers_in_a_range() -> None:
    assert parse_options({"num_workers": 2, "max_workers": 2}).max_workers == 2
    assert parse_options({"max_workers": 2}).num_workers is None
    with pytest.raises(InvalidInput, match="max_workers = 2: num_workers is more, 3"):
        parse_options({"num_workers": 3, "max_workers": 2})


@pytest.mark.parametrize(
    ("name", "meant"), [("train_data_path", "training_data"), ("lr", "learning_rate"), ("register_to", "model")]
)
def test_the_name_that_others_give_it(name: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=f"Unknown option '{name}'. Did you mean .*{meant}"):
        parse_options({name: "x"})


def test_a_task_may_be_plain() -> None:
    plain = {task for task in TaskType if task.is_plain}
    assert plain == {TaskType.INSTRUCTION_FINETUNE, TaskType.CONTINUED_PRETRAIN}


options = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(each) for name, each in ACCEPTED.items() if name not in ("training_duration", *NEEDS)
    },
).filter(lambda given: "train_on" not in given or given.get("task_type", "CHAT_COMPLETION") == "CHAT_COMPLETION")


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=options.filter(lambda given: given.get("method") != "full"))
def test_options_come_back_from_json(options: dict[str, Any]) -> None:
    parsed = parse_options(options)
    assert FinetuneOptions.model_validate(parsed.model_dump(mode="json")) == parsed
    assert FinetuneOptions.model_validate_json(parsed.model_dump_json()) == parsed


def test_options_come_back_from_the_store(registry: Registry, launcher: Launcher) -> None:
    given = {name: each[-1] for name, each in ACCEPTED.items() if name not in ("training_duration", "train_on")}
    job = make_job(options=parse_options({**given, "method": "qlora", "num_workers": 1}))
    launcher.unit = "GPU"
    registry.jobs.submit(job)
    stored = registry.jobs.get(ADMIN, job.id)
    assert stored.options == job.options
    assert (stored.options.method, stored.options.task_type) == (Method.QLORA, TaskType.DPO)
    assert Job.model_validate_json(stored.model_dump_json()) == stored


def test_the_options_of_an_older_job_are_read() -> None:
    """Jobs of the first version kept five options."""
    old = {"max_epochs": 2, "learning_rate": 1e-4, "batch_size": 8, "lora_rank": 16, "seed": 1}
    assert FinetuneOptions.model_validate(old) == parse_options(old)
