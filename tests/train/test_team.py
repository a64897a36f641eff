"""Several workers are one, whether each has the whole model or a share of it."""

import itertools
from pathlib import Path

import torch

from luthier.errors import LuthierError, TrainingFailed
from luthier.platform.options import Duration, Method, Unit
from luthier.platform.tasks import TaskType
from luthier.train import team
from luthier.train.config import FitConfig, StepRecord
from luthier.train.loop import train
from luthier.train.team import Team
from tests.train.conftest import for_task
from tests.train.local import Case, Local, assert_same, run_together, spawn

TASKS = {"chat": TaskType.CHAT_COMPLETION, "dpo": TaskType.DPO, "full": TaskType.INSTRUCTION_FINETUNE}


def variant(config: FitConfig, name: str, sharding: str = "none") -> FitConfig:
    """An epoch whose passes are so short that workers need different numbers of them; its last batch has three rows."""
    update = {
        "method": Method.FULL if name == "full" else Method.LORA,
        "learning_rate": 1e-3,
        "duration": Duration(num=1, unit=Unit.EPOCHS),
        "sharding": sharding,
        "max_pass_tokens": 150,
        "job_id": f"ft_{name}_{sharding}",
        "checkpoint_steps": 3,
    }
    return for_task(config, TASKS[name], train_on="all").model_copy(update=update)


class One:
    """The run of one worker that the others are compared with."""

    def __init__(self, config: FitConfig, folder: Path) -> None:
        self.case = Case(config, folder)
        self.history = train(config, Local(folder).worker)

    def assert_equals(self, case: Case, size: int) -> None:
        histories = case.histories()
        assert len(histories) == size
        for history in histories:
            assert_same(without_answers(history), without_answers(self.history), 1e-3)
        weights, expected = case.weights(5), self.case.weights(5)
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4)


def without_answers(history: list[StepRecord]) -> list[StepRecord]:
    """Rank 0 alone answers for all."""
    return [record.model_copy(update={"answers": ()}) for record in history]


def test_four_workers_and_four_shares_are_one(config: FitConfig, tmp_path: Path) -> None:
    """In the last step, of three rows, one of them has nothing to do."""
    names, whole_batches = ("chat", "full"), {"max_pass_tokens": 8192}
    cases = {
        (name, how): Case(variant(config, name, how).model_copy(update=whole_batches), tmp_path / f"{name}-{how}-4")
        for name in names
        for how in ("none", "full")
    }
    run_together(4, list(cases.values()), tmp_path)
    for name in names:
        one = One(variant(config, name).model_copy(update=whole_batches), tmp_path / name)
        for how in ("none", "full"):
            one.assert_equals(cases[name, how], 4)


def test_two_workers_and_two_shares_are_one_and_go_on_from_any_checkpoint(config: FitConfig, tmp_path: Path) -> None:
    """One worker's first steps, then two shares; two shares' first steps, then one worker, or two with a whole each."""
    ones = {name: One(variant(config, name), tmp_path / name) for name in TASKS}
    cases = []
    for name, one in ones.items():
        whole, shared = variant(config, name), variant(config, name, "full")
        two, first = Case(whole, tmp_path / f"{name}-two"), Case(shared, tmp_path / f"{name}-first")
        after_one = Case(shared, tmp_path / f"{name}-after-one", one.case.folder / "3")
        after_two = Case(whole, tmp_path / f"{name}-after-two", first.folder / "3")
        cases += [(one, case) for case in (two, first, after_one, after_two)]
    run_together(2, [case for _, case in cases], tmp_path)
    for one, case in cases:
        one.assert_equals(case, 2)
    for name, one in ones.items():
        again = Local(tmp_path / f"{name}-again", tmp_path / f"{name}-first" / "3")
        assert_same(train(variant(config, name), again.worker), one.history, 1e-3)


def test_answers_of_shares_are_those_of_the_whole(config: FitConfig, tmp_path: Path) -> None:
    asked = ("what is the colour of thing 3?", "hm")
    update = {"eval_prompts": asked, "max_pass_tokens": 8192, "checkpoint_steps": 50}
    whole, shared = (variant(config, "chat", how).model_copy(update=update) for how in ("none", "full"))
    case = Case(shared, tmp_path / "shared")
    run_together(2, [case], tmp_path)
    expected = train(whole, Local(tmp_path / "one").worker)
    assert [r.answers for r in case.histories()[0]] == [r.answers for r in expected]
    assert any(answer for record in expected for answer in record.answers)


def _errors(rank: int, size: int, folder: Path) -> None:
    workers = Team(rank, size, torch.device("cpu"))

    def work() -> int:
        if rank == 1:
            raise TrainingFailed("One row needs more memory than there is")
        return rank

    try:
        workers.together(work)
    except LuthierError as error:
        (folder / f"error-{rank}").write_text(repr(error))
    (folder / f"sum-{rank}").write_text(str(workers.together(lambda: int(workers.sum(torch.tensor(rank))))))


def test_an_error_of_one_worker_ends_all(tmp_path: Path) -> None:
    spawn(3, tmp_path, _errors, tmp_path)
    told = [(tmp_path / f"error-{rank}").read_text() for rank in range(3)]
    assert told == ["TrainingFailed('One row needs more memory than there is')"] * 3
    assert [(tmp_path / f"sum-{rank}").read_text() for rank in range(3)] == ["3"] * 3


MOST_WEIGHTS = (1, 60, 10_000)


def _gradients(rank: int, size: int, folder: Path) -> None:
    torch.manual_seed(rank)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (50,), (7, 5), (2,))]
    before = [torch.randn_like(p) if number < 4 - rank else None for number, p in enumerate(parameters)]
    torch.save(before, folder / f"before-{rank}")
    for most in MOST_WEIGHTS:
        team.MESSAGE_WEIGHTS = most
        for p, grad in zip(parameters, before, strict=True):
            p.grad = None if grad is None else grad.clone()
        Team(rank, size, torch.device("cpu")).sum_gradients(parameters)
        torch.save([p.grad for p in parameters], folder / f"after-{most}-{rank}")


def test_gradients_are_summed_in_messages_of_any_length(tmp_path: Path) -> None:
    spawn(2, tmp_path, _gradients, tmp_path)
    before = [torch.load(tmp_path / f"before-{rank}") for rank in (0, 1)]
    for most, rank in itertools.product(MOST_WEIGHTS, (0, 1)):
        for grad, first, second in zip(torch.load(tmp_path / f"after-{most}-{rank}"), *before, strict=True):
            torch.testing.assert_close(grad, first if second is None else first + second)
