"""What an account is told counts its own alone: between two of its records nobody sees how many others made."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from luthier.platform.registry.registry import Registry
from tests.factories import make_record
from tests.fakes import LocalCompletions
from tests.flow.conftest import create, error_of
from tests.flow.isolation import V1
from tests.flow.people import Join, join, run_all  # noqa: F401 - a fixture
from tests.flow.test_engines import STATS

USAGE = f"{V1}/usage/completions"


@pytest.fixture
def tenant(join: Join) -> TestClient:  # noqa: F811
    return join("ACCOUNTADMIN", account="tenant")


def test_pages_of_usage_go_on_after_a_record(api: TestClient, tenant: TestClient, registry: Registry) -> None:
    for number in range(5):
        registry.ledger.append([make_record(f"own_{number}"), make_record(f"others_{number}", account="tenant")])
    found, params = [], {"limit": "2"}
    while page := api.get(USAGE, params=params).json():
        found += [row["source_id"] for row in page["usage"]]
        if "next" not in page:
            break
        assert page["next"] == found[-1]
        params["after"] = page["next"]
    assert found == [f"own_{number}" for number in range(5)]
    told = [error_of(tenant.get(USAGE, params={"after": id}), 404, "not_found") for id in ("own_1", "none1")]
    assert told[0].replace("own_1", "none1") == told[1]


def test_events_are_numbered_in_their_job(api: TestClient, faq: str, train: Callable[[str], Path]) -> None:
    jobs = [create(api, model=name).json()["id"] for name in ("one", "two")]
    for job in jobs:
        train(job)
    for job in jobs:
        path = f"{V1}/jobs/{job}/events"
        events = api.get(path).json()["events"]
        assert len(events) > 2
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        assert api.get(path, params={"after": 2}).json()["events"] == events[2:]
        assert api.get(path, params={"after": len(events)}).json()["events"] == []


def test_changes_are_numbered_under_their_name(api: TestClient, tuned: str, train: Callable[[str], Path]) -> None:
    train(create(api, model="other").json()["id"])
    for model in (tuned, "other"):
        for alias in ("a", "b"):
            assert api.put(f"{V1}/models/{model}/aliases/{alias}", json={"version": 1}).is_success
    for model in (tuned, "other"):
        path = f"{V1}/models/{model}/history"
        changes = api.get(path).json()["history"]
        assert [change["id"] for change in changes] == [1, 2, 3]
        assert api.get(path, params={"after": 1, "limit": 1}).json() == {"history": [changes[1]], "next": "2"}


def test_a_model_has_no_number_but_its_versions(api: TestClient, tuned: str) -> None:
    model = api.get(f"{V1}/models/{tuned}").json()
    (version,) = api.get(f"{V1}/models/{tuned}/versions").json()["versions"]
    assert model["version"] == version["version"] == 1
    assert "number" not in {*model, *version}


@pytest.mark.parametrize("who", ["tenant", "analyst"])
def test_what_all_requests_come_to_is_the_operators(
    api: TestClient,
    tuned: str,
    completions: LocalCompletions,
    join: Join,  # noqa: F811
    tenant: TestClient,
    who: str,
) -> None:
    completions.stats = [STATS]
    other = tenant if who == "tenant" else join("ANALYST")
    named = ["LUTHIER.PUBLIC.tuned@1"] if who == "analyst" else []
    for place in ("DATABASE luthier", "SCHEMA luthier.public", f"MODEL {tuned}") if named else ():
        run_all(api, f"GRANT USAGE ON {place} TO ROLE analyst")
    (engine,) = other.get(f"{V1}/engines").json()["engines"]
    held = dict.fromkeys(("in_engine", "in_memory", "on_disk"), named)
    assert engine == {"base_model": "tiny", "replica": "r1", "engine_tells": True, **held}
    families = text_string_to_metric_families(other.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if "adapter" in sample.name]
    assert {sample.name for sample in samples} == ({"luthier_adapter_held"} if named else set())
    assert len(samples) == 3 * len(named)
