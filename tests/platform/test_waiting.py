"""The queue in the registry: who starts, who waits and is told why, and what can never run."""

import itertools
from collections.abc import Callable

import pytest

from luthier.errors import Conflict, InvalidInput
from luthier.platform.access import Caller
from luthier.platform.jobs import Job, JobStatus
from luthier.platform.options import FinetuneOptions
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import GIB, Settings
from tests.factories import ADMIN, BASE_MODEL, add_admin, make_finished, make_job
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

OTHER = Caller(account="other", user="admin", role="ACCOUNTADMIN")


@pytest.fixture
def clock() -> Callable[[], int]:
    """Each look is a second later."""
    return itertools.count(1_000_000, 1_000).__next__


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, clock: Callable[[], int]) -> Registry:
    return with_two_accounts(Registry(settings, launcher, clock))


def with_two_accounts(registry: Registry) -> Registry:
    add_admin(registry)
    registry.access.add_admin_key(OTHER.account, "hash", "lt_")
    return registry


def submit(
    registry: Registry, number: int, account: str = ADMIN.account, base_model: str = "tiny", **options: object
) -> Job:
    """The job ft_<number>, created at that time."""
    job = make_job(
        f"ft_{number}",
        f"LUTHIER.PUBLIC.M{number}",
        account=account,
        base_model=base_model,
        created_on=900_000 + number,
        options=FinetuneOptions.model_validate(options),
    )
    return registry.jobs.submit(job)


def run_all(registry: Registry, launcher: Launcher) -> list[str]:
    """The order in which jobs run, one after another."""
    order = []
    registry.jobs.tick()
    while launcher.alive:
        (job_id,) = launcher.alive
        order.append(job_id)
        registry.jobs.finish(job_id, make_finished())
        launcher.stop(job_id)
        registry.jobs.tick()
    return order


def waits(registry: Registry, job_id: str, caller: Caller = ADMIN) -> list[str]:
    return [event.message for event in registry.jobs.news(caller, job_id).events if event.type == "WAITING"]


def test_a_flood_of_one_account_is_shared_with_another(registry: Registry, launcher: Launcher) -> None:
    for number in (1, 2, 3, 4):
        submit(registry, number)
    for number in (5, 6):
        submit(registry, number, OTHER.account)
    assert run_all(registry, launcher) == ["ft_1", "ft_5", "ft_2", "ft_6", "ft_3", "ft_4"]


def test_the_turns_go_on_after_a_restart(settings: Settings, registry: Registry, launcher: Launcher) -> None:
    for number in (1, 2):
        submit(registry, number)
    registry.jobs.tick()
    submit(registry, 3, OTHER.account)
    registry.jobs.cancel(ADMIN, "ft_1")
    Registry(settings, launcher, clock=lambda: 2_000_000).jobs.tick()
    assert launcher.alive == {"ft_3"}


def test_priorities(registry: Registry, launcher: Launcher) -> None:
    for number, priority in enumerate(("low", "normal", "high", "low", "high"), 1):
        submit(registry, number, priority=priority)
    assert run_all(registry, launcher) == ["ft_3", "ft_5", "ft_2", "ft_1", "ft_4"]


def test_positions(registry: Registry) -> None:
    submit(registry, 1)
    registry.jobs.tick()
    for number, account in ((2, ADMIN.account), (3, ADMIN.account), (4, OTHER.account)):
        submit(registry, number, account)
    submit(registry, 5, priority="high")
    assert registry.jobs.positions(ADMIN) == {"ft_5": 1, "ft_2": 2, "ft_3": 3}
    assert registry.jobs.positions(OTHER) == {"ft_4": 1}
    registry.jobs.cancel(ADMIN, "ft_5")
    assert registry.jobs.positions(OTHER) == {"ft_4": 1}


def test_a_limit_for_each_account(settings: Settings, launcher: Launcher) -> None:
    launcher.num_jobs = 4
    limited = settings.model_copy(update={"max_running_jobs_per_account": 1})
    registry = with_two_accounts(Registry(limited, launcher))
    for number in (1, 2):
        submit(registry, number)
    submit(registry, 3, OTHER.account)
    registry.jobs.tick()
    assert launcher.alive == {"ft_1", "ft_3"}
    assert waits(registry, "ft_2") == ["Waits for a job of its own account to end: 1 run, and no more may."]
    registry.jobs.finish("ft_1", make_finished())
    registry.jobs.tick()
    assert "ft_2" in launcher.alive


def test_a_job_that_waits_says_why_once(settings: Settings, registry: Registry, launcher: Launcher) -> None:
    submit(registry, 1)
    submit(registry, 2, num_workers=4)
    for _ in range(3):
        registry.jobs.tick()
    Registry(settings, launcher).jobs.tick()
    assert waits(registry, "ft_1") == []
    assert waits(registry, "ft_2") == ["Waits for a job to end: 1 run, and no more may."]
    launcher.num_workers = 3
    registry.jobs.tick()
    launcher.num_workers = 4
    registry.jobs.tick()
    _, shrunk = waits(registry, "ft_2")
    assert "needs 4 CPUs, one for each worker, and the cluster has 3 for training" in shrunk
    assert registry.jobs.run("ft_2").status is JobStatus.PENDING


def test_runs_take_no_more_workers_than_there_are(registry: Registry, launcher: Launcher) -> None:
    launcher.num_jobs = 4
    submit(registry, 1, num_workers=3)
    submit(registry, 2, num_workers=2)
    submit(registry, 3, num_workers=1)
    registry.jobs.tick()
    assert launcher.alive == {"ft_1", "ft_3"}
    assert waits(registry, "ft_2") == ["Waits for 2 CPUs to get free: 0 of 4 are."]


def test_a_job_that_can_never_run_is_refused(registry: Registry, launcher: Launcher) -> None:
    with pytest.raises(InvalidInput, match=r"needs 5 CPUs.*the cluster has 4 for training\. Lower num_workers"):
        submit(registry, 1, num_workers=5)
    assert registry.jobs.show(ADMIN) == []
    first = submit(registry, 1, num_workers=4)
    launcher.num_workers = 2
    assert submit(registry, 1, num_workers=4) == first


def test_a_job_that_no_worker_has_memory_for_is_refused(registry: Registry, launcher: Launcher) -> None:
    launcher.unit, launcher.memory = "GPU", 80 * GIB
    with pytest.raises(InvalidInput) as caught:
        submit(registry, 1, base_model="llama3.1-8b", method="full", num_workers=1)
    assert caught.value.message == (
        "The job needs at least 113.2 GiB of memory for each worker, activations left out, and a GPU of the cluster "
        "has at most 80.0 GiB. Set num_workers to 2 or more, use method lora or qlora, or choose a smaller base model."
    )
    assert submit(registry, 1, base_model="llama3.1-8b", method="full", num_workers=2).status is JobStatus.PENDING
    launcher.unit, launcher.memory = "CPU", 24 * GIB
    with pytest.raises(
        InvalidInput, match=r"needs at least 123\.9 GiB .* the largest node of the cluster has at most 24"
    ):
        submit(registry, 2, base_model="llama3.1-70b")
    assert submit(registry, 2, base_model="smollm2-135m", method="full", num_workers=2)
    launcher.memory = None
    assert submit(registry, 3, base_model="llama3.1-70b")


def test_a_job_waits_for_memory_that_the_cluster_lost(registry: Registry, launcher: Launcher) -> None:
    """It starts when there are larger GPUs again; a running one that was lost waits for them too."""
    launcher.unit, launcher.num_jobs, launcher.memory = "GPU", 4, 80 * GIB
    submit(registry, 1, base_model="llama3.1-70b", num_workers=2)
    registry.jobs.tick()
    submit(registry, 2, base_model="llama3.1-70b", num_workers=2)
    launcher.memory = 24 * GIB
    launcher.alive.clear()
    for _ in range(3):
        registry.jobs.tick()
    assert launcher.alive == set()
    for job_id in ("ft_1", "ft_2"):
        assert waits(registry, job_id) == [
            "Waits for a larger cluster. The job needs at least 61.9 GiB of memory for each worker, activations left "
            "out, and a GPU of the cluster has at most 24.0 GiB."
        ]
    launcher.memory = 80 * GIB
    registry.jobs.tick()
    assert launcher.alive == {"ft_1", "ft_2"}


def test_four_bits_need_a_gpu(registry: Registry, launcher: Launcher) -> None:
    with pytest.raises(InvalidInput, match="method = qlora: a base in 4 bits needs a GPU, and this cluster has none"):
        submit(registry, 1, method="qlora")
    launcher.unit = "GPU"
    assert submit(registry, 1, method="qlora").status is JobStatus.PENDING


def test_workers_by_default(settings: Settings, launcher: Launcher) -> None:
    """As many GPUs as the base model takes and the cluster has; one process where there is no GPU."""
    row = BASE_MODEL.format(path="none").replace('name = "tiny"', 'name = "wide"\ntrain_gpus = 3')
    (settings.home / "base_models" / "wide.toml").write_text(row)
    registry = with_two_accounts(Registry(settings, launcher))
    launcher.num_jobs = 4
    for number in (1, 2):
        registry.jobs.submit(make_job(f"ft_{number}", f"LUTHIER.PUBLIC.M{number}", base_model="wide"))
    launcher.unit = "GPU"
    registry.jobs.tick()
    assert launcher.alive == {"ft_1"}
    assert waits(registry, "ft_2") == ["Waits for 3 GPUs to get free: 1 of 4 are."]
    launcher.unit = "CPU"
    registry.jobs.tick()
    assert launcher.alive == {"ft_1", "ft_2"}


def test_precheck_says_what_submit_would(registry: Registry, launcher: Launcher) -> None:
    assert registry.jobs.precheck(make_job(report={})) is None
    assert registry.jobs.show(ADMIN) == []
    first = registry.jobs.submit(make_job(), "key")
    assert registry.jobs.precheck(make_job("ft_2", report={}), "key") == first
    with pytest.raises(Conflict, match="'key' was used for another request"):
        registry.jobs.precheck(make_job("ft_2", training_data="SELECT 2"), "key")
    with pytest.raises(Conflict, match="Job ft_1 is making a model"):
        registry.jobs.precheck(make_job("ft_2"))
    launcher.num_workers = 0
    with pytest.raises(InvalidInput, match="needs 1 CPU, one for each worker, and the cluster has 0 for training"):
        registry.jobs.precheck(make_job("ft_2", "LUTHIER.PUBLIC.B"))
