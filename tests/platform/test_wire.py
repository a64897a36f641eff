"""Bodies: options as SQL brings them, and a job as Snowflake and as the native API describe it."""

from typing import Any

import pytest
from pydantic import ValidationError

from luthier.errors import InvalidInput
from luthier.platform.jobs import JobError, JobStatus
from luthier.platform.wire import (
    CompleteRequest,
    RunSql,
    Usage,
    native_description,
    options_from_json,
    snowflake_description,
    snowflake_row,
)
from tests.factories import make_job, make_progress

ALWAYS = {"id", "status", "progress", "base_model", "created_on", "training_data", "validation_data"}
# The fields of the Snowflake Python client's FinetuneStatus: any other key breaks it.
CLIENT_FIELDS = ALWAYS | {"finished_on", "model", "trained_tokens", "training_result", "error"}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("{}", {}),
        ('{"max_epochs": 3}', {"max_epochs": 3}),
    ],
)
def test_options(text: str | None, options: dict[str, Any] | None) -> None:
    assert options_from_json(text) == options


def test_a_statement_is_as_long_as_snowflakes() -> None:
    longest = " " * 1_048_576
    assert RunSql(statement=longest).statement == longest
    with pytest.raises(ValidationError, match="at most 1048576 characters"):
        RunSql(statement=longest + " ")


@pytest.mark.parametrize(("text", "words"), [("{max_epochs: 3}", "not valid JSON"), ("[3]", "a JSON object")])
def test_bad_options(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        options_from_json(text)


def test_a_row_of_show() -> None:
    row = {"id": "ft_1", "status": "PENDING", "base_model": "tiny", "created_on": 1_000}
    assert snowflake_row(make_job()) == row


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, {}),
        (
            {"status": JobStatus.IN_PROGRESS, "progress": make_progress(1, 3), "started_on": 1},
            {"progress": 0.3333},
        ),
        (
            {
                "status": JobStatus.SUCCESS,
                "finished_on": 9,
                "trained_tokens": 60,
                "training_loss": 0.5,
                "validation_loss": 0.75,
            },
            {
                "progress": 1.0,
                "finished_on": 9,
                "model": "LUTHIER.PUBLIC.TUNED",
                "trained_tokens": 60,
                "training_result": {"validation_loss": 0.75, "training_loss": 0.5},
            },
        ),
        (
            {"status": JobStatus.ERROR, "finished_on": 9, "error": JobError(code="BAD", message="bad")},
            {"finished_on": 9, "error": {"code": "BAD", "message": "bad"}},
        ),
        (
            {"status": JobStatus.CANCELLED, "finished_on": 9, "trained_tokens": 5, "progress": make_progress(1, 4)},
            {"finished_on": 9, "progress": 0.25},
        ),
    ],
    ids=["pending", "in progress", "success", "error", "cancelled"],
)
def test_a_description(fields: dict[str, Any], more: dict[str, Any]) -> None:
    job = make_job(**fields)
    plain = {**snowflake_row(job), "progress": 0.0, "training_data": "SELECT 1", "validation_data": ""}
    assert snowflake_description(job) == {**plain, **more}
    assert set(snowflake_description(job)) <= CLIENT_FIELDS


def test_the_native_description_has_more() -> None:
    described = native_description(make_job(), None)
    assert set(described) >= ALWAYS | {"model", "options", "progress_details", "report", "attempt", "owner"}
    assert described["options"]["max_epochs"] == 3


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="made_up"):
        CompleteRequest.model_validate({"model": "m", "prompt": "p", "made_up": {}})


def test_usage_adds_up() -> None:
    assert Usage(prompt_tokens=2, completion_tokens=3).total_tokens == 5
