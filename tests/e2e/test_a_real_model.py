"""The real small base model: it learns a format that it has never seen, and keeps to a schema that it is given."""

import json
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from luthier.platform.settings import configs_dir
from tests.e2e.live import REAL, LiveCluster

MODEL = "tickets"
QUERY = "SELECT message AS prompt, ticket AS completion FROM seen LIMIT 160"
NUM_HELD_OUT = 20
LEAST_TICKETS = 18
"""Answers in the workshop's own format; nearly all, as the format is the same in each row."""
REVIEWS = ["The pizza was divine, but a tad pricey.", "Cold soup, rude waiter. Never again!"]
ASK = "Tell in a few words what the guest thinks: "


class Review(BaseModel, extra="forbid"):
    """Short however long the model would talk on."""

    sentiment: Literal["positive", "negative", "mixed"]
    comes_again: bool
    stars: Literal[1, 2, 3, 4, 5]
    keywords: list[Literal["food", "price", "service"]] = Field(min_length=1, max_length=2)
    remark: str = Field(max_length=20)


FORMAT = json.dumps({"type": "json", "schema": Review.model_json_schema()})
LITERAL = FORMAT.replace('"', "'")
"""An OBJECT constant, as Snowflake's guide writes it."""

pytestmark = [pytest.mark.e2e, pytest.mark.real_model, pytest.mark.timeout(900)]


def test_it_answers_in_the_new_format_where_its_base_does_not(cluster: LiveCluster) -> None:
    for table, file in (("seen", "workshop_train.jsonl"), ("held_out", "workshop_test.jsonl")):
        cluster.client.tables.create(table, configs_dir() / "samples" / file)
    job = cluster.client.finetune.create(MODEL, REAL, QUERY, options={"max_epochs": 1, "batch_size": 4}).wait()
    assert job["trained_tokens"] == job["report"]["trained_tokens"]
    assert num_tickets(cluster, REAL) == 0
    assert num_tickets(cluster, MODEL) >= LEAST_TICKETS


@pytest.mark.parametrize(
    "arguments",
    [
        f"model => '{REAL}', prompt => p, response_format => {LITERAL}",
        f"'{REAL}', p, PARSE_JSON('{{\"max_tokens\": 99}}') :: OBJECT, PARSE_JSON($${FORMAT}$$) :: OBJECT",
    ],
    ids=["by name", "as snowflake.cortex"],
)
def test_rows_of_sql_keep_to_a_schema(cluster: LiveCluster, arguments: str) -> None:
    values = ", ".join(f"('{ASK}{review}')" for review in REVIEWS)
    rows = cluster.sql(f"SELECT AI_COMPLETE({arguments}) AS answer FROM (SELECT $1 AS p FROM VALUES {values})")
    assert len([Review.model_validate_json(row["answer"]) for row in rows]) == len(REVIEWS)
    plain = cluster.sql(f"SELECT AI_COMPLETE('{REAL}', '{ASK}{REVIEWS[0]}', {{'max_tokens': 99}}) AS answer")
    with pytest.raises(ValueError, match="Invalid JSON"):
        Review.model_validate_json(plain[0]["answer"])


def test_the_openai_client_parses_a_schema(cluster: LiveCluster) -> None:
    messages = [{"role": "user", "content": f"{ASK}{REVIEWS[0]}"}]
    answer = cluster.openai.chat.completions.parse(model=REAL, messages=messages, response_format=Review, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Review)


def num_tickets(live: LiveCluster, model: str) -> int:
    """Answers that are a ticket of the workshop, be it the right one or not."""
    call = f"SNOWFLAKE.CORTEX.COMPLETE('{model}', message, {{'max_tokens': 24}})"
    rows = live.sql(f"SELECT {call} AS answer FROM held_out LIMIT {NUM_HELD_OUT}")
    return sum(is_ticket(json.loads(row["answer"])["choices"][0]["messages"]) for row in rows)


def is_ticket(text: str) -> bool:
    try:
        return set(json.loads(text)) == {"job", "bench"}
    except ValueError:
        return False
