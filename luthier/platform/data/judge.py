"""Training data judged before any hardware is touched: faults, tokens, price, time. No torch.

`judge` reads downward: faults -> tokens -> overlong rows -> split -> plan -> price -> advice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.errors import BadDataset, InvalidInput
from luthier.platform.base_models import retirement_warning
from luthier.platform.data import datasets
from luthier.platform.data.datasets import Dataset
from luthier.platform.data.estimate import check_num_rows, estimate, is_over_budget
from luthier.platform.data.measure import Measured, histogram, measure, samples
from luthier.platform.data.recipe import Terms, batch_of
from luthier.platform.data.report import DataReport, Finding, Judged, finding, findings
from luthier.platform.data.row_checks import fault_of
from luthier.platform.jobs import shortened_words
from luthier.platform.options import Method
from luthier.platform.tasks import TaskType

MAX_TOKENS = 10_000_000_000
"""Databricks refuses data sets of so many tokens."""
ADVISED_PRETRAIN_TOKENS = 1_500_000
ADVISED_EPOCHS = 4
NUM_SAMPLES = 3
OVERLONG = "longer than its prompt or completion share of the context, and on_overlong is error"


@dataclass(frozen=True)
class Part:
    """Rows of one query that are trained on, or validated on."""

    table: pa.Table
    rows: list[dict[str, Any]]
    measured: Measured
    numbers: Sequence[int]
    """Of the rows in their query, from 1."""

    def of_rows(self, positions: Sequence[int]) -> "Part":
        mask = np.zeros(len(self.rows), np.bool_)
        mask[positions] = True
        rows, numbers = [self.rows[at] for at in positions], [self.numbers[at] for at in positions]
        return Part(self.table.filter(pa.array(mask)), rows, self.measured.of_rows(positions), numbers)


def judge(training: pa.Table, validation: pa.Table | None, terms: Terms) -> Judged:
    """Counts exactly what the trainer will see; too many rows for the base model are refused."""
    tables = {"training": training} if validation is None else {"training": training, "validation": validation}
    check_num_rows(sum(table.num_rows for table in tables.values()), 1, terms.base)
    _check_eval_prompts(terms)
    rows = {of: table.to_pylist() for of, table in tables.items()}
    report = DataReport(
        task_type=terms.options.task_type,
        rows=training.num_rows,
        validation_rows=validation.num_rows if validation else 0,
        validation_split=validation is None,
        faults=[fault for of, each in rows.items() for fault in _row_faults(each, of)],
        duplicates=finding("the same row again", _repeated(rows["training"])),
        overlap=finding("also a training row", []),
    )
    if report.faults:
        return Judged(report=report)
    parts = {
        of: Part(table, rows[of], _measured(rows[of], terms), range(1, table.num_rows + 1))
        for of, table in tables.items()
    }
    if faults := [fault for of, part in parts.items() for fault in _token_faults(part.measured, of, terms)]:
        return Judged(report=report.model_copy(update={"faults": faults}))
    return _accepted(report, parts["training"], parts.get("validation"), terms)


def _check_eval_prompts(terms: Terms) -> None:
    limit, is_plain = terms.how.max_prompt, terms.options.task_type.is_plain
    for number, text in enumerate(terms.options.eval_prompts, 1):
        ids = terms.prompts.encode(text) if is_plain else terms.prompts.chat([{"role": "user", "content": text}])
        if not 0 < len(ids) <= limit:
            raise InvalidInput(f"Option eval_prompts: prompt {number} has {len(ids)} tokens; 1 to {limit} are read.")


def _row_faults(rows: Sequence[dict[str, Any]], of: str) -> list[Finding]:
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows, 1):
        if fault := fault_of(row):
            found.setdefault(fault, []).append(number)
    return findings(found, of)


def _repeated(rows: Sequence[dict[str, Any]]) -> list[int]:
    seen: set[tuple[Any, ...]] = set()
    repeated = []
    for number, row in enumerate(rows, 1):
        values = tuple(row.values())
        if values in seen:
            repeated.append(number)
        seen.add(values)
    return repeated


def _measured(rows: Sequence[dict[str, Any]], terms: Terms) -> Measured:
    return measure(rows, terms.prompts, terms.how, may_drop=terms.options.on_overlong == "drop")


def _token_faults(measured: Measured, of: str, terms: Terms) -> list[Finding]:
    """Rows that cannot be rendered, and those beyond their shares where that is an error."""
    faults = dict(measured.faults)
    if terms.options.on_overlong == "error" and measured.overlong.any():
        faults[OVERLONG] = [int(at) + 1 for at in np.flatnonzero(measured.overlong)]
    return findings(faults, of)


def _accepted(report: DataReport, training: Part, validation: Part | None, terms: Terms) -> Judged:
    """Data without faults: what of it is trained on, how long, and at what price."""
    asked = [training] if validation is None else [training, validation]
    overlong = sum(int(part.measured.overlong.sum()) for part in asked)
    is_dropped = terms.options.on_overlong == "drop"
    if is_dropped:
        asked = [part.of_rows(np.flatnonzero(~part.measured.overlong).tolist()) for part in asked]
    if not all(part.rows for part in asked):
        raise BadDataset("Every row is longer than its share of the context: on_overlong = drop leaves nothing.")
    num_rows = sum(len(part.rows) for part in asked)
    trained, held, overlap = _parted(asked, terms.options.seed)
    _check_tokens(trained.measured)
    told = {
        "rows": len(trained.rows),
        "validation_rows": len(held.rows),
        "overlap": overlap,
        "tokens": int(trained.measured.lengths.sum()),
        "learned_tokens": int(trained.measured.learned.sum()),
        "longest_row": int(max(trained.measured.row_lengths.max(), held.measured.row_lengths.max())),
        "histogram": histogram(trained.measured.row_lengths),
        "rows_dropped" if is_dropped else "rows_cut": overlong,
        "samples": samples(trained.rows[:NUM_SAMPLES], terms.prompts, terms.how),
        **estimate(trained.measured.lengths, num_rows, terms).model_dump(),
    }
    accepted = report.model_copy(update=told)
    accepted = accepted.model_copy(update={"warnings": _warnings(accepted, num_rows, terms)})
    return Judged(report=accepted, data=Dataset(training=trained.table, validation=held.table))


def _parted(asked: Sequence[Part], seed: int) -> tuple[Part, Part, Finding]:
    """Training rows, validation rows, and those of the second that are among the first, numbered as they were given."""
    if len(asked) == 2:
        (trained, held), of = asked, "validation"
    else:
        (trained, held), of = map(asked[0].of_rows, datasets.split(len(asked[0].rows), seed)), "training"
    seen = {tuple(row.values()) for row in trained.rows}
    known = [number for number, row in zip(held.numbers, held.rows, strict=True) if tuple(row.values()) in seen]
    return trained, held, finding("also a training row", known, of)


def _check_tokens(measured: Measured) -> None:
    total = int(measured.lengths.sum())
    if not total:
        raise BadDataset("The training data has no text of two tokens or more.")
    if total >= MAX_TOKENS:
        raise BadDataset(f"{total:,} tokens are too many: data sets below {MAX_TOKENS:,} can be trained on.")


def _warnings(report: DataReport, num_rows: int, terms: Terms) -> list[str]:
    """Where the systems that this one follows advise against a run."""
    how, batch = terms.how, batch_of(terms.options, terms.how)
    is_text = how.task_type is TaskType.CONTINUED_PRETRAIN
    checks = [
        (report.duplicates.count, f"Rows that repeat an earlier row: {report.duplicates.count}"),
        (report.overlap.count, f"Validation rows that are training rows too: {report.overlap.count}"),
        (num_rows == 1, "One row serves for training and for validation"),
        (report.rows_cut, f"Rows cut at their share of the context: {report.rows_cut}"),
        (report.rows_dropped, f"Rows left out, longer than their share of the context: {report.rows_dropped}"),
        (batch and batch.rows and report.rows < batch.rows, f"Fewer rows ({report.rows}) than one batch"),
        (
            not is_text and report.tokens < how.max_tokens,
            f"Fewer tokens ({report.tokens:,}) than one context ({how.max_tokens:,})",
        ),
        (
            is_text and report.tokens < ADVISED_PRETRAIN_TOKENS,
            f"Fewer tokens ({report.tokens:,}) than are advised for pre-training ({ADVISED_PRETRAIN_TOKENS:,})",
        ),
        (
            report.epochs > ADVISED_EPOCHS,
            f"{report.epochs} epochs: beyond {ADVISED_EPOCHS} a model tends to copy its data",
        ),
        (
            is_over_budget(terms.options, report.credits),
            f"CREATE refuses this: it costs more than the job's budget of {terms.options.budget_credits} credits",
        ),
        (report.is_shortened, shortened_words(report.trained_tokens)),
        (
            terms.options.method is Method.FULL,
            "Method full: the engine of the base model will not answer with it; export it",
        ),
        (True, retirement_warning(terms.base, datetime.now(UTC).date())),
    ]
    return [text for holds, text in checks if holds and text]
