"""The tables of the training benchmark."""

from statistics import mean, median

from benchmarks.report import heading
from benchmarks.train_worker import LEARNING_RATE, RANK, Result, Task

Runs = dict[Task, list[Result]]
TRAINING_PACKAGES = ("torch", "transformers", "peft", "accelerate")


def report(title: str, clock: str, screened: Runs, alternated: Runs) -> str:
    """`clock` says what the seconds are."""
    first, rounds = next((task, len(results)) for task, results in alternated.items())
    machine = ("TRL 1.16", f"threads: {first.threads}", *_computed_with(screened))
    steps = next(len(results[0].seconds) for results in screened.values())
    return f"""{heading(f"Training: Luthier against TRL, {title}", TRAINING_PACKAGES, *machine, device=first.device)}

LoRA rank {RANK} on all linear modules, {first.batch_rows} rows a step, learning rate {LEARNING_RATE}, the same rows for
all. {clock} Batches "same" are Luthier's, in
its order: their losses can be compared. In other batches they cannot.

## Alternating, {rounds} rounds of {first.steps} steps

{_table(alternated)}

{_ratios(alternated)}

## Screening, one round of {steps} steps

{_table(screened)}
"""


def _computed_with(screened: Runs) -> list[str]:
    """What TRL found installed."""
    found = {result.kernels for results in screened.values() for result in results}
    return [f"TRL's kernels: {kernels}" for kernels in sorted(found) if kernels]


def _table(runs: Runs) -> str:
    memory = "peak GPU memory, MiB" if next(iter(runs)).device == "cuda" else "peak RSS, MiB"
    head = ("", "useful tokens/s", memory, "pads", "batches", "mean loss", "last loss")
    lines = [head, ("---",) * len(head)]
    for task, results in runs.items():
        speeds, last = _speeds(results), results[-1]
        spread = f" ({min(speeds):.0f} to {max(speeds):.0f})" if len(speeds) > 1 else ""
        line = (
            task.name,
            f"{median(speeds):.0f}{spread}",
            f"{max(result.peak_mib for result in results)}",
            f"{sum(last.pads) / sum(last.tokens + last.pads):.0%}",
            "same" if task.has_same_batches else f"{len(last.losses)} others",
            f"{mean(last.losses):.4f}",
            f"{last.losses[-1]:.4f}",
        )
        lines.append(line if task.has_same_batches else (*line[:5], *(f"({loss})" for loss in line[5:])))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratios(alternated: Runs) -> str:
    (_, ours), *others = [(task, _speeds(results)) for task, results in alternated.items()]
    lines = []
    for task, speeds in others:
        pairs = [a / b for a, b in zip(ours, speeds, strict=True)]
        ratio = median(ours) / median(speeds)
        lines.append(
            f"Luthier / {task.name}: **{ratio:.2f}** of the medians, {min(pairs):.2f} to {max(pairs):.2f} a round."
        )
    return "\n".join(lines)


def _speeds(results: list[Result]) -> list[float]:
    return [result.speed for result in results]
