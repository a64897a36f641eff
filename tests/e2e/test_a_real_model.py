"""The real small base model learns a format that it has never seen, from a part of the demo's table."""

import json

import pytest

from luthier.platform.settings import configs_dir
from tests.e2e.live import REAL, LiveCluster

MODEL = "tickets"
QUERY = "SELECT message AS prompt, ticket AS completion FROM seen LIMIT 160"
NUM_HELD_OUT = 20
LEAST_TICKETS = 18
"""Answers in the workshop's own format; nearly all, as the format is the same in each row."""

pytestmark = [pytest.mark.e2e, pytest.mark.real_model, pytest.mark.timeout(900)]


def test_it_answers_in_the_new_format_where_its_base_does_not(cluster: LiveCluster) -> None:
    for table, file in (("seen", "workshop_train.jsonl"), ("held_out", "workshop_test.jsonl")):
        cluster.client.tables.create(table, configs_dir() / "samples" / file)
    job = cluster.client.finetune.create(MODEL, REAL, QUERY, options={"max_epochs": 1, "batch_size": 4}).wait()
    assert job["trained_tokens"] == job["report"]["trained_tokens"]
    assert num_tickets(cluster, REAL) == 0
    assert num_tickets(cluster, MODEL) >= LEAST_TICKETS


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
