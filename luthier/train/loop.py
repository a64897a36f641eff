"""What every worker of a run does: set up, resume, step, evaluate, checkpoint.

Knows nothing of Ray: a Worker says which of how many processes this is, and takes what comes out.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from luthier.errors import TrainingFailed
from luthier.platform.prompts import Sample, load_prompts
from luthier.train import checkpoint, data
from luthier.train.checkpoint import Progress
from luthier.train.config import FitConfig, StepRecord
from luthier.train.model import TunedModel, default_dtype
from luthier.train.packing import Batch, batches, steps_per_epoch

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Worker:
    """One process of a run, and where it hands what it makes."""

    rank: int
    world_size: int
    device: torch.device
    resume_from: Path | None
    keep_checkpoint: Callable[[Path | None, int], None]
    """Takes a folder (rank 0; the others None) and its step. Every rank calls it; the folder is gone afterwards."""
    report: Callable[[StepRecord, int], None]
    """Takes each step of rank 0 and the number of all steps."""


def train(config: FitConfig, worker: Worker) -> list[StepRecord]:
    """Runs to the end of the last epoch; gives the records of all steps, those before a resume included."""
    torch.set_num_threads(config.threads)
    training = _samples(config, config.train_file)
    validation = _samples(config, config.validation_file) if config.validation_file else []
    dtype = default_dtype(worker.device) if config.dtype == "auto" else getattr(torch, config.dtype)
    model = TunedModel.load(config.base_dir, config.lora, config.seed, worker.device, dtype)
    optimizer = torch.optim.AdamW(model.trainable(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    progress = checkpoint.load(worker.resume_from, model, optimizer) if worker.resume_from else Progress()
    per_epoch = steps_per_epoch(len(training), config.batch_size)
    num_steps = per_epoch * config.max_epochs
    for record in progress.history:
        worker.report(record, num_steps)

    for epoch in range(progress.step // per_epoch + 1, config.max_epochs + 1):
        share = batches(training, config.batch_size, config.seed, epoch, worker.rank, worker.world_size)
        done = progress.step - (epoch - 1) * per_epoch
        for step, batch in enumerate(share[done:], progress.step + 1):
            torch.manual_seed(config.seed * 1_000_003 + step * worker.world_size + worker.rank)
            rate = config.learning_rate * rate_share(step, num_steps, config.warmup_share)
            loss, num_tokens = optimize(model, optimizer, batch, rate, config.max_pass_tokens, worker.world_size)
            if not math.isfinite(loss):
                raise TrainingFailed(
                    f"The training loss is {loss} at step {step} of {num_steps}. Try a smaller learning rate."
                )
            ends_epoch = step == epoch * per_epoch
            held_out = evaluate(model, validation, config, worker) if ends_epoch and validation else None
            record = StepRecord(
                step=step, epoch=epoch, training_loss=loss, validation_loss=held_out, num_tokens=num_tokens
            )
            progress.history.append(record)
            worker.report(record, num_steps)
            if ends_epoch or step % config.checkpoint_steps == 0:
                _keep(worker, model, optimizer, progress)
    return progress.history


def rate_share(step: int, num_steps: int, warmup_share: float) -> float:
    """The learning rate of a step (from 1) as a share of its peak: up in a line, then down to 0 after the last."""
    warmup = math.ceil(num_steps * warmup_share)
    if step <= warmup:
        return step / warmup
    return (num_steps - step + 1) / (num_steps - warmup)


def optimize(
    model: TunedModel, optimizer: torch.optim.Optimizer, batch: Batch, rate: float, max_tokens: int, world_size: int
) -> tuple[float, int]:
    """One optimizer step over all workers' batches; gives their mean loss a label and their number of tokens."""
    optimizer.zero_grad(set_to_none=True)
    total, num_labels = _forward(model, batch, max_tokens, backward=True)
    parameters = model.trainable()
    counts = torch.tensor([total, num_labels, batch.num_tokens], dtype=torch.float64)
    if world_size > 1:
        counts = _sum_over_workers(parameters, counts, model.device)
    total, num_labels, num_tokens = counts.tolist()
    if num_labels == 0:
        raise TrainingFailed("A batch has no token to learn from.")
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_div_(gradients, num_labels)
    torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return total / num_labels, int(num_tokens)


def evaluate(model: TunedModel, samples: list[Sample], config: FitConfig, worker: Worker) -> float:
    """Mean loss a labelled token over all workers' shares of the rows."""
    counts = torch.zeros(2, dtype=torch.float64)
    model.peft.eval()
    with torch.no_grad():
        for batch in batches(samples, config.batch_size, config.seed, 0, worker.rank, worker.world_size):
            counts += torch.tensor(_forward(model, batch, config.max_pass_tokens, backward=False))
    model.peft.train()
    if worker.world_size > 1:
        counts = _sum_over_workers([], counts, worker.device)
    total, num_labels = counts.tolist()
    return float(total / max(num_labels, 1))


def _samples(config: FitConfig, path: Path) -> list[Sample]:
    prompts = load_prompts(config.base_dir)
    return data.encode(data.read_rows(path), prompts, config.max_prompt_tokens, config.max_completion_tokens)


def _forward(model: TunedModel, batch: Batch, max_tokens: int, backward: bool) -> tuple[float, int]:
    """Sum of losses and number of labels of one worker's batch, which may be empty."""
    total, num_labels = 0.0, 0
    for part in batch.passes(max_tokens):
        loss, count = model.loss(part)
        if backward:
            loss.backward()
        total += loss.item()
        num_labels += count
    return total, num_labels


def _sum_over_workers(parameters: list[torch.nn.Parameter], counts: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Sums counts and the parameters' gradients over all workers, the gradients in one message and in place."""
    counts = counts.to(device)
    torch.distributed.all_reduce(counts)
    if parameters:
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        flat = torch.cat([p.grad.flatten() for p in parameters])
        torch.distributed.all_reduce(flat)
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(part.view_as(p))
    return counts.cpu()


def _keep(worker: Worker, model: TunedModel, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    if worker.rank != 0:
        worker.keep_checkpoint(None, progress.step)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), model, optimizer, progress)
        worker.keep_checkpoint(Path(folder), progress.step)
