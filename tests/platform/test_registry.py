"""The registry's verbs: each twice is harmless; lost runs; order; names; keys."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput, NotAuthenticated, NotFound
from luthier.platform.access import ADMIN_ROLE, Caller, hash_key, new_key
from luthier.platform.jobs import JobError, JobStatus
from luthier.platform.metering import UsageKind
from luthier.platform.models import ImportedModel, TableInfo
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions, Method
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from luthier.platform.tasks import TaskType
from tests.factories import ADMIN, KEY, add_admin, ledger_of, make_finished, make_job, make_progress, make_record
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

STRANGER = Caller(account="other", user="u", role="r")
TUNED = parse_name("LUTHIER.PUBLIC.TUNED", "", "")
BAD = JobError(code="BAD", message="bad rows")


def status(registry: Registry, job_id: str = "ft_1") -> JobStatus:
    return registry.jobs.run(job_id).status


def running(registry: Registry, job_id: str = "ft_1") -> None:
    registry.jobs.submit(make_job(job_id))
    registry.jobs.tick()
    assert status(registry, job_id) is JobStatus.IN_PROGRESS


def types(registry: Registry, job_id: str = "ft_1") -> list[str]:
    return [event.type for event in registry.jobs.news(ADMIN, job_id).events]


def billed(registry: Registry) -> list[tuple[str, int, int]]:
    records = ledger_of(registry, UsageKind.TRAINING)
    return [(record.source_id, record.trained_tokens, record.amount_ucr) for record in records]


@pytest.mark.parametrize("text", ["\0", "a\0b"])
def test_a_text_with_a_nul_is_refused_by_every_store(registry: Registry, text: str) -> None:
    """PostgreSQL has no NUL in its texts; SQLite has."""
    asks: tuple[Callable[[], object], ...] = (
        lambda: registry.users.show(ADMIN, 10, text),
        lambda: registry.roles.create(ADMIN, "ANALYST", text),
        lambda: registry.ledger.append([make_record(function=text)]),
    )
    for ask in asks:
        with pytest.raises(InvalidInput, match="a text has a NUL character in it"):
            ask()
    assert [role.name for role in registry.roles.show(ADMIN)] == [ADMIN_ROLE, "PUBLIC"]
    assert ledger_of(registry) == []


def test_keys(registry: Registry, settings: Settings) -> None:
    assert registry.keys.authenticate(hash_key(KEY)).caller.identity == ADMIN.identity
    add_admin(registry)
    assert registry.keys.authenticate(hash_key(KEY)).caller.identity == ADMIN.identity
    with pytest.raises(NotAuthenticated, match="not known here"):
        registry.keys.authenticate(hash_key(new_key()))
    store = Store(settings.store_url)
    with store.transaction() as tx:
        stored = tx.execute(sa.select(store.table("keys"))).mappings().one()
        assert KEY not in map(str, stored.values())
        tx.execute(sa.update(store.table("keys")).values(revoked_on=1))
    with pytest.raises(NotAuthenticated):
        registry.keys.authenticate(hash_key(KEY))


def test_submit_twice(registry: Registry) -> None:
    first = registry.jobs.submit(make_job(), "key")
    assert registry.jobs.submit(make_job(), "key") == first
    assert registry.jobs.submit(make_job("ft_2"), "key") == first
    assert [job.id for job in registry.jobs.show(ADMIN)] == ["ft_1"]
    assert types(registry) == ["CREATED", "CHECK_PASSED"]


@pytest.mark.parametrize(
    "change",
    [{"model": "LUTHIER.PUBLIC.B"}, {"training_data": "SELECT 2"}, {"options": FinetuneOptions(max_epochs=1)}],
    ids=lambda change: next(iter(change)),
)
def test_a_key_with_another_body_is_refused(registry: Registry, change: dict[str, object]) -> None:
    registry.jobs.submit(make_job(), "key")
    with pytest.raises(Conflict, match="'key' was used for another request"):
        registry.jobs.submit(make_job("ft_2", **change), "key")


def test_keys_of_two_accounts_do_not_meet(registry: Registry, settings: Settings) -> None:
    registry.access.add_admin_key("other", "hash", "lt_")
    registry.jobs.submit(make_job(), "key")
    second = registry.jobs.submit(make_job("ft_2", account="other", training_data="SELECT 2"), "key")
    assert second.id == "ft_2"


def test_finish_twice(registry: Registry) -> None:
    running(registry)
    done = registry.jobs.finish("ft_1", make_finished())
    assert done.status is JobStatus.SUCCESS
    assert registry.jobs.finish("ft_1", make_finished()) == done
    assert billed(registry) == [("ft_1", 60, 6)]
    assert len(registry.models.show(ADMIN)) == 1


def test_fail_twice(registry: Registry) -> None:
    running(registry)
    registry.jobs.report("ft_1", make_progress(2, trained_tokens=30))
    failed = registry.jobs.fail("ft_1", BAD, billable=True)
    assert (failed.status, failed.error, failed.trained_tokens) == (JobStatus.ERROR, BAD, 30)
    assert registry.jobs.fail("ft_1", BAD, billable=True) == failed
    assert billed(registry) == [("ft_1", 30, 3)]


def test_a_fault_of_ours_costs_nothing(registry: Registry) -> None:
    running(registry)
    registry.jobs.report("ft_1", make_progress(2, trained_tokens=30))
    assert registry.jobs.fail("ft_1", BAD, billable=False).trained_tokens == 0
    assert billed(registry) == []


def test_cancel_twice(registry: Registry, launcher: Launcher) -> None:
    running(registry)
    registry.jobs.report("ft_1", make_progress(2, trained_tokens=30))
    cancelled = registry.jobs.cancel(ADMIN, "ft_1")
    assert cancelled.status is JobStatus.CANCELLED
    assert launcher.alive == set()
    assert registry.jobs.cancel(ADMIN, "ft_1") == cancelled
    assert billed(registry) == [("ft_1", 30, 3)]
    registry.jobs.tick()
    assert status(registry) is JobStatus.CANCELLED


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_an_ended_job_cannot_be_cancelled(registry: Registry, end: str) -> None:
    running(registry)
    if end == "finish":
        registry.jobs.finish("ft_1", make_finished())
    else:
        registry.jobs.fail("ft_1", BAD, billable=False)
    with pytest.raises(Conflict, match=r"ft_1 is (SUCCESS|ERROR) and cannot become CANCELLED"):
        registry.jobs.cancel(ADMIN, "ft_1")


def test_a_run_that_comes_too_late_is_refused(registry: Registry) -> None:
    running(registry)
    registry.jobs.cancel(ADMIN, "ft_1")
    with pytest.raises(Conflict):
        registry.jobs.finish("ft_1", make_finished())
    assert registry.models.show(ADMIN) == []


def test_late_reports_change_nothing(registry: Registry) -> None:
    running(registry)
    registry.jobs.report("ft_1", make_progress(3))
    registry.jobs.report("ft_1", make_progress(2))
    assert registry.jobs.run("ft_1").progress.step == 3
    registry.jobs.finish("ft_1", make_finished())
    registry.jobs.report("ft_1", make_progress(4))
    assert registry.jobs.run("ft_1").progress.step == 3


def test_first_in_first_out(registry: Registry, launcher: Launcher) -> None:
    for number, created in ((1, 30), (2, 10), (3, 20)):
        registry.jobs.submit(make_job(f"ft_{number}", f"LUTHIER.PUBLIC.M{number}", created_on=created))
    started: list[str] = []
    for _ in range(3):
        registry.jobs.tick()
        registry.jobs.tick()
        assert len(launcher.alive) == 1
        started += launcher.alive
        registry.jobs.cancel(ADMIN, started[-1])
    assert started == ["ft_2", "ft_3", "ft_1"]


def test_a_lost_run_starts_again_until_its_attempts_are_used_up(registry: Registry, launcher: Launcher) -> None:
    running(registry)
    for attempt in (1, 2, 3, 4):
        assert registry.jobs.run("ft_1").attempt == attempt
        launcher.stop("ft_1")
        registry.jobs.tick()
    job = registry.jobs.run("ft_1")
    assert (job.status, job.attempt) == (JobStatus.ERROR, 4)
    assert job.error is not None
    assert job.error.code == "RUN_LOST"
    assert "lost 4 times" in job.error.message
    assert billed(registry) == []
    assert types(registry)[2:] == ["STARTED", "REQUEUED", "REQUEUED", "REQUEUED", "FAILED"]


def test_a_run_that_comes_further_between_its_losses_is_not_given_up(registry: Registry, launcher: Launcher) -> None:
    running(registry)
    for step in range(1, 11):
        registry.jobs.report("ft_1", make_progress(step, total_steps=20))
        launcher.stop("ft_1")
        registry.jobs.tick()
    assert (registry.jobs.run("ft_1").status, registry.jobs.run("ft_1").attempt) == (JobStatus.IN_PROGRESS, 11)


def test_a_lost_run_waits_for_the_nodes_that_it_needs(registry: Registry, launcher: Launcher) -> None:
    running(registry)
    launcher.stop("ft_1")
    launcher.num_workers = 0
    registry.jobs.tick()
    assert not launcher.alive
    assert registry.jobs.run("ft_1").status is JobStatus.IN_PROGRESS
    launcher.num_workers = 1
    registry.jobs.tick()
    assert launcher.alive == {"ft_1"}


def test_a_launch_that_fails_is_tried_again(registry: Registry, launcher: Launcher) -> None:
    def refuse(job_id: str, capacity: object) -> None:
        raise OSError("no room")

    registry.jobs.submit(make_job())
    launcher.launch = refuse
    with pytest.raises(OSError, match="no room"):
        registry.jobs.tick()
    del launcher.launch
    registry.jobs.tick()
    assert launcher.alive == {"ft_1"}


@pytest.mark.parametrize("rival", ["LUTHIER.PUBLIC.tuned", 'LUTHIER.PUBLIC."TUNED"'])
def test_a_name_is_taken_by_a_job_and_then_by_its_model(registry: Registry, rival: str) -> None:
    running(registry)
    with pytest.raises(Conflict, match="Job ft_1 is making a model"):
        registry.jobs.submit(make_job("ft_2", rival))
    registry.jobs.finish("ft_1", make_finished())
    with pytest.raises(Conflict, match="is there already"):
        registry.jobs.submit(make_job("ft_2", rival))
    registry.models.drop(ADMIN, TUNED)
    assert registry.jobs.submit(make_job("ft_2", rival)).id == "ft_2"


def test_a_model_that_is_still_made_is_not_ready(registry: Registry) -> None:
    running(registry)
    with pytest.raises(NotFound, match=r"not ready: job ft_1 is making it \(IN_PROGRESS\)"):
        registry.models.get(ADMIN, TUNED)
    with pytest.raises(NotFound, match=r"No model LUTHIER\.PUBLIC\.OTHER"):
        registry.models.get(ADMIN, parse_name("LUTHIER.PUBLIC.OTHER", "", ""))
    registry.jobs.finish("ft_1", make_finished())
    assert registry.models.get(ADMIN, TUNED).job_id == "ft_1"


def test_numbers_of_versions_are_never_used_again(registry: Registry) -> None:
    numbers = []
    for job_id in ("ft_1", "ft_2"):
        running(registry, job_id)
        registry.jobs.finish(job_id, make_finished())
        numbers.append(registry.models.drop(ADMIN, TUNED).number)
    assert numbers[1] > numbers[0]
    with pytest.raises(NotFound):
        registry.models.drop(ADMIN, TUNED)


def make_import(**given: object) -> ImportedModel:
    fields = {"base_model": "tiny", "path": "a", "sha256": "ab" * 32, "rank": 8, "created_on": 5}
    return ImportedModel(**{**fields, "task_type": TaskType.CHAT_COMPLETION, **given})


def test_an_import_twice(registry: Registry) -> None:
    made = make_import()
    assert registry.models.find_import(ADMIN, TUNED, made) is None
    first = registry.models.import_model(ADMIN, TUNED, made)
    assert (first.job_id, first.version, first.method, first.parent) == (None, 1, Method.LORA, None)
    again = made.model_copy(update={"created_on": 6})
    assert registry.models.import_model(ADMIN, TUNED, again) == first
    assert registry.models.find_import(ADMIN, TUNED, again) == first
    assert registry.models.show(ADMIN) == [first]
    for other in (make_import(sha256="cd" * 32), make_import(task_type=TaskType.DPO)):
        for verb in (registry.models.find_import, registry.models.import_model):
            with pytest.raises(Conflict, match="is there already"):
                verb(ADMIN, TUNED, other)
    registry.models.precheck_import(ADMIN, TUNED)
    registry.models.drop(ADMIN, TUNED)
    registry.models.precheck_import(ADMIN, TUNED)
    assert registry.models.import_model(ADMIN, TUNED, made).number > first.number


def test_an_import_and_a_job_want_one_name(registry: Registry) -> None:
    running(registry)
    with pytest.raises(Conflict, match="Job ft_1 is making a model"):
        registry.models.import_model(ADMIN, TUNED, make_import())
    with pytest.raises(Conflict, match="Job ft_1 is making a model"):
        registry.models.precheck_import(ADMIN, TUNED)
    registry.jobs.finish("ft_1", make_finished(sha256="ab" * 32))
    with pytest.raises(Conflict, match="is there already"):
        registry.models.import_model(ADMIN, TUNED, make_import())
    with pytest.raises(Conflict, match="is there already"):
        registry.models.precheck_import(ADMIN, TUNED)
    other = parse_name("LUTHIER.PUBLIC.OTHER", "", "")
    registry.models.import_model(ADMIN, other, make_import())
    with pytest.raises(Conflict, match="is there already"):
        registry.jobs.submit(make_job("ft_2", "LUTHIER.PUBLIC.OTHER"))


def test_strangers_see_nothing(registry: Registry) -> None:
    running(registry)
    registry.jobs.finish("ft_1", make_finished())
    registry.access.add_admin_key(STRANGER.account, "hash", "lt_")
    assert registry.jobs.show(STRANGER) == []
    assert registry.models.show(STRANGER) == []
    for ask in (registry.jobs.get, registry.jobs.news, registry.jobs.cancel):
        with pytest.raises(NotFound, match="No fine-tuning job 'ft_1'"):
            ask(STRANGER, "ft_1")
    with pytest.raises(NotFound):
        registry.models.get(STRANGER, TUNED)


def test_tables(registry: Registry, tmp_path: Path) -> None:
    name = parse_name("train", "LUTHIER", "PUBLIC")

    def info(path: str) -> TableInfo:
        return TableInfo(name=name.display, owner="admin", path=path, num_rows=1, columns=["prompt"], created_on=1)

    assert registry.tables.create(ADMIN, name, info("a")) is None
    assert registry.tables.create(ADMIN, name, info("a"), replace=True) is None
    assert registry.tables.show(ADMIN) == [info("a")]
    with pytest.raises(Conflict, match=r"LUTHIER\.PUBLIC\.train is there already"):
        registry.tables.create(ADMIN, name, info("b"))
    assert registry.tables.create(ADMIN, name, info("b"), replace=True) == info("a")
    assert registry.tables.show(ADMIN) == [info("b")]
    assert registry.tables.show(STRANGER) == []
    assert registry.tables.drop(ADMIN, name) == info("b")
    with pytest.raises(NotFound, match="No table"):
        registry.tables.drop(ADMIN, name)


def test_speeds_are_those_of_the_last_runs_of_a_method(registry: Registry) -> None:
    """However many runs of another method, without a speed, or without success came after them."""
    methods = [Method.LORA] * 7 + [Method.FULL] * 7
    for number, method in enumerate(methods, 1):
        job_id = f"ft_{number}"
        registry.jobs.submit(make_job(job_id, f"LUTHIER.PUBLIC.M{number}", options=FinetuneOptions(method=method)))
        registry.jobs.tick()
        registry.jobs.report(job_id, make_progress().model_copy(update={"tokens_per_second": float(number)}))
        if number == 7:
            registry.jobs.fail(job_id, BAD, billable=False)
        else:
            registry.jobs.finish(job_id, make_finished())
    speeds = registry.jobs.speeds("tiny", Method.LORA)
    assert len(speeds) == 5
    assert set(speeds) < {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
    assert len(registry.jobs.speeds("tiny", Method.FULL)) == 5
    assert registry.jobs.speeds("tiny", Method.QLORA) == registry.jobs.speeds("other", Method.LORA) == []
