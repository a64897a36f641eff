"""`luthier finetune create`: flags and --set as the job gets them, dry runs, and refusals that name the option."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from luthier.cli.main import main
from tests.factories import KEY
from tests.flow.conftest import SELECT

Create = Callable[..., Result]
LONG = "zxqv kjw " * 400


@pytest.fixture
def run(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    return lambda *words: CliRunner().invoke(main, list(words))


@pytest.fixture
def create(run: Callable[..., Result], faq: str) -> Create:
    def made(*words: str, data: str = SELECT) -> Result:
        return run("finetune", "create", "tuned", "--base-model", "tiny", "--training-data", data, *words)

    return made


def options_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    options: dict[str, Any] = json.loads(result.stdout)["options"]
    return options


def test_flags_and_sets_reach_the_job(create: Create) -> None:
    flags = (
        *("--task-type", "instruction_finetune", "--method", "LORA", "--training-duration", "5ba"),
        *("--learning-rate", "2e-4", "--batch-size", "4", "--context-length", "64", "--lora-rank", "8"),
        *("--eval-prompt", "why?", "--eval-prompt", "what?", "--budget-credits", "1.50"),
        *("--set", "seed=7", "--set", "schedule=cosine", "--set", 'lora_targets=["q_proj"]', "--set", "lora_alpha=8"),
    )
    options = options_of(create(*flags, "--json"))
    expected = {
        "task_type": "INSTRUCTION_FINETUNE",
        "method": "lora",
        "training_duration": "5ba",
        "learning_rate": 2e-4,
        "batch_size": 4,
        "context_length": 64,
        "lora_rank": 8,
        "eval_prompts": ["why?", "what?"],
        "budget_credits": "1.50",
        "seed": 7,
        "schedule": "cosine",
        "lora_targets": ["q_proj"],
        "lora_alpha": 8,
    }
    assert {name: options[name] for name in expected} == expected


def test_without_flags_the_server_chooses(create: Create) -> None:
    options = options_of(create("--json"))
    assert (options["task_type"], options["max_epochs"], options["batch_size"]) == ("CHAT_COMPLETION", 3, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-epochs", "0"), "Option max_epochs = 0"),
        (("--learning-rate", "1"), "Option learning_rate = 1"),
        (("--training-duration", "3 days"), "Option training_duration = '3 days'"),
        (("--batch-size", "0"), "Option batch_size = 0"),
        (("--context-length", "513"), "Option context_length = 513"),
        (("--lora-rank", "17"), "Option lora_rank = 17"),
        (("--budget-credits", "-1"), "Option budget_credits = '-1'"),
        (("--eval-prompt", LONG), "Option eval_prompts"),
        (("--continue-from", "nothing"), "Option continue_from = 'nothing'"),
        (("--max-epochs", "1", "--training-duration", "1ep"), "max_epochs and training_duration"),
        (("--set", "train_on=all", "--task-type", "DPO"), "Option train_on"),
        (("--set", "learning_rat=1"), "Did you mean learning_rate?"),
        (("--set", "learning_rate=nan"), "Option learning_rate = 'nan'"),
        (("--lora-rank", "8", "--set", "lora_rank=4"), "Option lora_rank is given twice"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else None,
)
def test_a_refusal_names_the_option(create: Create, words: tuple[str, ...], message: str) -> None:
    result = create(*words)
    assert result.exit_code in (2, 3)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


JOB_FILE = """
model = "filed"
base_model = "tiny"
training_data = "SELECT question AS prompt, answer AS completion FROM faq"

[options]
task_type = "INSTRUCTION_FINETUNE"
max_epochs = 2
eval_prompts = ["why?"]
"""


def test_a_job_file(run: Callable[..., Result], faq: str, tmp_path: Path) -> None:
    """What is given beside it goes first."""
    file = tmp_path / "job.toml"
    file.write_text(JOB_FILE)
    filed = run("finetune", "create", "--file", str(file), "--json")
    assert json.loads(filed.stdout)["model"] == "LUTHIER.PUBLIC.filed"
    options = options_of(filed)
    assert (options["task_type"], options["max_epochs"], options["eval_prompts"]) == (
        "INSTRUCTION_FINETUNE",
        2,
        ["why?"],
    )
    other = run("finetune", "create", "other", "--file", str(file), "--max-epochs", "1", "--set", "seed=4", "--json")
    assert json.loads(other.stdout)["model"] == "LUTHIER.PUBLIC.other"
    options = options_of(other)
    assert (options["task_type"], options["max_epochs"], options["seed"]) == ("INSTRUCTION_FINETUNE", 1, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (JOB_FILE.replace("base_model", "basemodel"), "job.toml:3: "),
        (JOB_FILE.replace("max_epochs = 2", "max_epoch = 2"), "Did you mean max_epochs?"),
        ("model = 3", "job.toml:1"),
    ],
)
def test_a_bad_job_file(run: Callable[..., Result], faq: str, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "job.toml").write_text(text)
    result = run("finetune", "create", "--file", str(tmp_path / "job.toml"))
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("words", "missing"),
    [((), "NAME"), (("a",), "--base-model"), (("a", "--base-model", "tiny"), "--training-data")],
    ids=str,
)
def test_what_is_missing_is_named(run: Callable[..., Result], words: tuple[str, ...], missing: str) -> None:
    result = run("finetune", "create", *words)
    assert result.exit_code == 2
    assert f"Error: {missing} is missing" in result.stderr


def test_choices_are_those_of_the_platform(create: Create) -> None:
    result = create("--task-type", "SFT")
    assert result.exit_code == 2
    assert "continued_pretrain" in result.stderr.lower()


def test_a_dry_run_shows_the_report(create: Create, run: Callable[..., Result]) -> None:
    result = create("--dry-run", "--max-epochs", "5", "--set", "seed=1")
    assert result.exit_code == 0
    for words in (
        "rows      9 to train on, 1 to validate on (split off)",
        "warning   5 epochs: beyond 4 a model tends to copy its data",
        "credits (prices of ",
        "rows by tokens\n",
        "  <|im_start|>user\n  question 0<|im_end|>\n  <|im_start|>assistant\n  [[answer 0<|im_end|>]]\n",
    ):
        assert words in result.stdout
    assert "No fine-tuning jobs yet" in run("finetune", "show").stdout


def test_a_dry_run_of_faulty_data_has_the_status_of_its_refusal(create: Create) -> None:
    faulty = "SELECT question AS prompt, NULLIF(answer, 'answer 3') AS completion FROM faq"
    shown = create("--dry-run", data=faulty)
    assert shown.exit_code == create(data=faulty).exit_code == 2
    assert "  1 training rows: completion is NULL (row 4)\n" in shown.stdout
    told = create("--dry-run", "--json", data=faulty)
    assert (told.exit_code, json.loads(told.stdout)["faults"][0]["rows"]) == (2, [4])


def test_describe_shows_the_report_too(create: Create, run: Callable[..., Result]) -> None:
    job_id = create().stdout.strip()
    shown = run("finetune", "describe", job_id)
    assert shown.exit_code == 0
    assert "PENDING" in shown.stdout
    assert "[[answer 0<|im_end|>]]" in shown.stdout
    assert shown.stdout.count("validation_split") == 0
    assert json.loads(run("finetune", "describe", job_id, "--json").stdout)["report"]["samples"]


def test_pre_training_on_a_folder(create: Create, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(4):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"what is the answer to question {number}?")
    result = create("--task-type", "continued_pretrain", "--dry-run", data=str(tmp_path / "texts"))
    assert result.exit_code == 0
    assert "3 to train on, 1 to validate on" in result.stdout
    assert "are advised for pre-training (1,500,000)" in " ".join(result.stdout.split())
    (tmp_path / "texts" / "bad.txt").write_bytes(b"\xff")
    refused = create("--task-type", "continued_pretrain", data=str(tmp_path / "texts"))
    assert refused.exit_code == 2
    assert "bad.txt is not UTF-8 text" in refused.stderr
