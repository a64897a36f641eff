"""What CREATE says before it reads any data, and what a job that waits shows."""

from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient

from luthier.platform.jobs import new_job_id
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import make_job
from tests.fakes import Launcher
from tests.flow.conftest import create, error_of


def test_a_key_that_had_its_answer_needs_no_data(api: TestClient, faq: str, train: Callable[[str], Path]) -> None:
    first = create(api, key="k").json()
    api.delete(f"/luthier/v1/tables/{faq}")
    assert create(api, key="k").json() == first
    for other in ({"model": "other"}, {"training_data": "SELECT 1"}, {"options": {"seed": 1}}):
        assert "'k' was used for another request" in error_of(create(api, key="k", **other), 409, "conflict")
    train(first["id"])
    assert create(api, key="k").json()["status"] == "SUCCESS"
    assert len(api.get("/luthier/v1/jobs").json()["jobs"]) == 1


def test_a_dry_run_of_a_name_that_is_taken(api: TestClient, faq: str, train: Callable[[str], Path]) -> None:
    job = create(api).json()
    for words in (f"Job {job['id']} is making a model", "is there already"):
        real = error_of(create(api, model="TUNED"), 409, "conflict")
        assert words in real
        assert error_of(create(api, model="TUNED", dry_run=True), 409, "conflict") == real
        if words != "is there already":
            train(job["id"])
    assert create(api, model="free", dry_run=True).json()["rows"] == 9


def test_a_job_that_no_cluster_here_can_run(api: TestClient, faq: str, settings: Settings) -> None:
    for dry_run in (False, True):
        response = create(api, options={"num_workers": 5}, dry_run=dry_run)
        assert "needs 5 CPUs" in error_of(response, 400, "invalid_parameter_value")
    assert not (settings.storage / "jobs").exists()


def test_the_place_in_the_queue(api: TestClient, faq: str, registry: Registry, launcher: Launcher) -> None:
    ids = [create(api, model=f"m{number}").json()["id"] for number in range(2)]
    urgent = create(api, model="urgent", options={"priority": "high"}).json()
    assert urgent["queue_position"] == 1
    shown = {job["id"]: job["queue_position"] for job in api.get("/luthier/v1/jobs").json()["jobs"]}
    assert shown == {ids[0]: 2, ids[1]: 3, urgent["id"]: 1}
    registry.jobs.tick()
    assert launcher.alive == {urgent["id"]}
    running, waiting = (api.get(f"/luthier/v1/jobs/{job_id}").json() for job_id in (urgent["id"], ids[1]))
    assert (running["queue_position"], waiting["queue_position"]) == (None, 2)
    *_, event = api.get(f"/luthier/v1/jobs/{ids[1]}/events").json()["events"]
    assert (event["type"], event["message"]) == ("WAITING", "Waits for a job to end: 1 run, and no more may.")
    assert api.post(f"/luthier/v1/jobs/{ids[1]}/cancel").json()["queue_position"] is None


def test_the_place_tells_nothing_of_other_accounts(api: TestClient, faq: str, registry: Registry) -> None:
    registry.access.add_admin_key("other", "hash", "lt_x")
    for number in range(3):
        registry.jobs.submit(make_job(new_job_id(), f"LUTHIER.PUBLIC.M{number}", account="other", created_on=number))
    assert create(api).json()["queue_position"] == 1
    assert create(api, model="second").json()["queue_position"] == 2
