"""Jobs: the table of moves, and the registry's verbs in any order."""

import pytest

from luthier.errors import Conflict
from luthier.platform.jobs import MOVES, JobStatus, Progress, check_move, new_job_id

FINAL = {JobStatus.SUCCESS, JobStatus.ERROR, JobStatus.CANCELLED}
ALLOWED = {
    (JobStatus.PENDING, JobStatus.IN_PROGRESS),
    (JobStatus.PENDING, JobStatus.ERROR),
    (JobStatus.PENDING, JobStatus.CANCELLED),
    (JobStatus.IN_PROGRESS, JobStatus.SUCCESS),
    (JobStatus.IN_PROGRESS, JobStatus.ERROR),
    (JobStatus.IN_PROGRESS, JobStatus.CANCELLED),
}


@pytest.mark.parametrize("to", JobStatus)
@pytest.mark.parametrize("now", JobStatus)
def test_moves(now: JobStatus, to: JobStatus) -> None:
    if (now, to) in ALLOWED:
        check_move("ft_1", now, to)
    else:
        with pytest.raises(Conflict, match=f"ft_1 is {now} and cannot become {to}"):
            check_move("ft_1", now, to)


def test_final_states_have_no_way_out() -> None:
    assert {status for status in JobStatus if status.is_final} == FINAL
    assert FINAL.isdisjoint(MOVES)


def test_ids_are_uuids() -> None:
    assert len(new_job_id()) == len("ft_") + 36
    assert new_job_id() != new_job_id()


@pytest.mark.parametrize(("step", "total", "share"), [(0, 0, 0.0), (1, 3, 0.3333), (4, 4, 1.0)])
def test_progress_is_a_share(step: int, total: int, share: float) -> None:
    assert Progress(step=step, total_steps=total).share == share
