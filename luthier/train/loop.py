"""What every worker of a run does: step, evaluate, checkpoint, from where it is to the end of its plan.

Knows nothing of Ray: a Worker says which of how many processes this is, and takes what comes out.
"""

import math

import torch
from torch import Tensor

from luthier.errors import TrainingFailed
from luthier.platform.jobs import EventType
from luthier.platform.whole_files import write_whole
from luthier.train.answers import Answers, answer
from luthier.train.checkpoint import snapshot
from luthier.train.config import FitConfig, StepRecord
from luthier.train.fingerprint import fingerprint
from luthier.train.keeping import Keeper
from luthier.train.limits import check_loss, check_number
from luthier.train.packing import Batch
from luthier.train.run import Run, Worker
from luthier.train.sharding import whole

MAX_GRADIENT_NORM = 1.0


def train(config: FitConfig, worker: Worker) -> list[StepRecord]:
    """Runs to the last step of the plan; gives the records of all steps, those before a resume included."""
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Run(config, worker)
    num_steps, state = len(run.steps), run.state
    for record in state.history:
        worker.report(record, num_steps)
    worker.note(EventType.TRAIN_STARTED, f"from step {state.step + 1} of {num_steps}")

    with Keeper(run) as keeper:
        for number, step in enumerate(run.steps[state.step :], state.step + 1):
            torch.manual_seed(config.seed * 1_000_003 + number * worker.world_size + worker.rank)
            rate = config.learning_rate * rate_share(number, num_steps, config.warmup_share, config.schedule)
            loss, norm, tokens = gradient(run, run.training.share(step.rows.tolist(), worker))
            check_loss(loss, norm, state.history, number, num_steps)
            update(run, rate)
            is_last = number == num_steps
            has_checkpoint = step.ends_epoch or is_last or number % config.checkpoint_steps == 0
            held_out, evaluated = evaluate(run) if run.validation and (step.ends_epoch or is_last) else (None, 0)
            check_number(held_out or 0.0, "validation loss", number, num_steps)
            answers = _answers(run) if has_checkpoint else Answers()
            record = StepRecord(
                step=number,
                epoch=step.epoch,
                training_loss=loss,
                validation_loss=held_out,
                num_tokens=tokens,
                learning_rate=rate,
                gradient_norm=norm,
                answers=answers.texts,
                evaluated_tokens=evaluated + answers.num_tokens,
            )
            state.history.append(record)
            worker.report(record, num_steps)
            if has_checkpoint:
                _keep(run, keeper)
        keeper.finish()
    _take_fingerprint(run)
    return state.history


def rate_share(step: int, num_steps: int, warmup_share: float, schedule: str) -> float:
    """The learning rate of a step (from 1) as a share of its peak: up in a line, then down to 0 after the last."""
    warmup = math.ceil(num_steps * warmup_share)
    if step <= warmup:
        return step / warmup
    left = (num_steps - step + 1) / (num_steps - warmup)
    if schedule == "constant":
        return 1.0
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def gradient(run: Run, batch: Batch) -> tuple[float, float, int]:
    """The gradient of one step over all workers; gives its mean loss, its norm before clipping and the tokens."""

    def backward(parts: list[Batch]) -> tuple[float, int]:
        run.optimizer.zero_grad(set_to_none=True)
        return _sums(run, parts, run.training.reference)

    total, num = run.team.together(lambda: run.limit.passes(batch, backward))
    total, num, tokens = run.team.sum(torch.tensor([total, num, batch.num_tokens], dtype=torch.float64)).tolist()
    if num == 0:
        raise TrainingFailed("A batch has no token to learn from.")
    parameters = run.model.trainable()
    run.team.sum_gradients(parameters)
    torch._foreach_div_([p.grad for p in parameters if p.grad is not None], num)
    norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM, foreach=True)
    return total / num, float(whole(norm)), int(tokens)


def update(run: Run, rate: float) -> None:
    """One optimizer step with the gradient that is there."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()


def evaluate(run: Run) -> tuple[float, int]:
    """Mean loss over all workers' shares of the validation rows, and their tokens."""
    assert run.validation
    reference = run.validation.reference
    batch = run.validation.share(range(len(run.validation.examples)), run.worker)
    run.model.module.eval()
    with torch.no_grad():
        sums = run.team.together(lambda: run.limit.passes(batch, lambda parts: _sums(run, parts, reference)))
    run.model.module.train()
    total, num, tokens = run.team.sum(torch.tensor([*sums, batch.num_tokens], dtype=torch.float64)).tolist()
    return float(total / max(num, 1)), int(tokens)


def _sums(run: Run, parts: list[Batch], reference: Tensor | None) -> tuple[float, int]:
    """Sum of losses and their number over one worker's passes; with gradients where they are on."""
    total, num = 0.0, 0
    for part in parts:
        loss, count = run.objective.loss(run.model, part, reference)
        if torch.is_grad_enabled():
            loss.backward()
        total += loss.item()
        num += count
    return total, num


def _answers(run: Run) -> Answers:
    """Rank 0's; the others help where weights are shared."""
    if not run.config.eval_prompts or not (run.team.rank == 0 or run.team.mesh):
        return Answers()
    return answer(run.model, run.prompts, run.config, run.limit.max_tokens)


def _keep(run: Run, keeper: Keeper) -> None:
    """A snapshot to rank 0's keeper; the other workers help where weights are shared."""
    is_mine = run.team.rank == 0
    keeper.wait()  # two snapshots may be more than the memory has room for
    taken = snapshot(run.model, run.optimizer, run.state, is_mine) if is_mine or run.team.mesh else None
    run.team.together(lambda: taken.check() if taken else None)
    if is_mine and taken:
        keeper.keep(taken)


def _take_fingerprint(run: Run) -> None:
    """Of the weights in the last checkpoint; rank 0 writes it, the others help where weights are shared."""
    if not (run.team.rank == 0 or run.team.mesh):
        return
    taken = fingerprint(run)
    if run.team.rank == 0:
        write_whole(run.files.fingerprint, taken.model_dump_json())
