"""The tables of sql_complete."""

from collections.abc import Iterator
from statistics import median

from benchmarks.report import heading
from benchmarks.serve_report import GROUPS, SERVING_PACKAGES, spread, table
from benchmarks.sql_offline import DISTURBED, Run

OURS = "Luthier"


def report(model: str, note: str, runs: dict[str, list[Run]], ledgers: list[str]) -> str:
    lines = [_line(side, done, runs[OURS]) for side, done in runs.items()]
    head = ("", "rows/s", "output tokens/s", "prompt tokens", "output tokens", "answers as Luthier's")
    cpu = [
        (side, *(f"{1000 * median(_cpu_each(run, group) for run in done):.2f}" for group in GROUPS))
        for side, done in runs.items()
    ]
    ratios = "\n".join(_ratios(runs))
    return f"""{heading(f"SQL's COMPLETE against vLLM's generate, {model}", SERVING_PACKAGES)}

{note}.

Figures are medians of the statements, with the least and the most. Both sides answer greedily and end where the model
does. CPU is milliseconds a row of the machine's CPUs: the engine, what speaks HTTP before it and runs the SQL, proxies,
the registry, the rest of a side (of generate's, the script that tokenises), the client, and others that have no part in
it; where these took more than {DISTURBED:.0%} of a CPU, the start was done again. Luthier's ledger against the usage in
the rows, by start: {", ".join(ledgers)}.

{table(head, lines)}

{table(("CPU ms a row", *GROUPS), cpu)}

{ratios}
"""


def _line(side: str, done: list[Run], ours: list[Run]) -> tuple[str, ...]:
    same = sum(
        one == two
        for run, own in zip(done, ours, strict=True)
        for one, two in zip(run.answers, own.answers, strict=True)
    )
    return (
        side,
        spread([run.speed for run in done], 1),
        spread([run.completion_tokens / run.seconds for run in done], 0),
        str(sum(run.prompt_tokens for run in done)),
        str(sum(run.completion_tokens for run in done)),
        f"{same} of {sum(len(run.answers) for run in done)}",
    )


def _cpu_each(run: Run, group: str) -> float:
    return run.cpu.get(group, 0.0) / len(run.answers)


def _ratios(runs: dict[str, list[Run]]) -> Iterator[str]:
    """Luthier's rows and tokens a second over each of the others'."""
    ours = runs[OURS]
    for side, done in runs.items():
        if side != OURS:
            each = [own.speed / run.speed for own, run in zip(ours, done, strict=True)]
            rows = median(run.speed for run in ours) / median(run.speed for run in done)
            tokens = median(map(_tokens, ours)) / median(map(_tokens, done))
            yield (
                f"- {OURS} / {side}: **{rows:.2f}** of the medians' rows/s, {min(each):.2f} to {max(each):.2f} a "
                f"statement; {tokens:.2f} of the tokens/s."
            )


def _tokens(run: Run) -> float:
    return run.completion_tokens / run.seconds
