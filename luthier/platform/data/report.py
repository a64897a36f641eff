"""The data report: what CREATE would train on and cost, or the faults that it would refuse. Nouns only."""

from collections.abc import Mapping, Sequence

from luthier.errors import BadDataset
from luthier.platform.data.datasets import Dataset
from luthier.platform.frozen import Frozen
from luthier.platform.tasks import TaskType

MAX_ROWS_NAMED = 5
MAX_KINDS = 20
"""Of faults in one report; the others are counted together."""


class Finding(Frozen):
    """Rows of which one thing is true."""

    what: str
    count: int
    rows: list[int]
    """The first of them; 1 is the first row of the query. Rows of the validation data are counted apart."""
    of: str = "training"


class Bin(Frozen):
    """Rows with at most so many tokens, and more than the bin before."""

    up_to: int
    rows: int


class Piece(Frozen):
    """A run of a rendered sample's text."""

    text: str
    learned: bool


class DataReport(Frozen):
    """What CREATE would train on. Tokens count the rendered prompt, the completion and its end token."""

    task_type: TaskType
    rows: int
    validation_rows: int
    validation_split: bool
    """No validation data was given: a share of the training data is split off, or with faults would be."""
    faults: list[Finding]
    """With any of them the rest of the report is missing: nothing can be said of rows that cannot be read."""
    duplicates: Finding
    """Rows that repeat an earlier one, before any split."""
    overlap: Finding
    """Validation rows that are training rows too."""
    tokens: int = 0
    """Of the training rows, for one epoch."""
    learned_tokens: int = 0
    """The share of them that is learned."""
    longest_row: int = 0
    histogram: list[Bin] = []
    rows_cut: int = 0
    """Rows of both sets that exceed the base model's prompt or completion share and will be truncated."""
    rows_dropped: int = 0
    samples: list[list[Piece]] = []
    """As the model reads them; the learned pieces are marked."""
    duration: str = ""
    epochs: int = 0
    """Passes over the data that are begun."""
    steps: int | None = None
    """None while the batch size is to be measured."""
    trained_tokens: int = 0
    is_shortened: bool = False
    """The job's budget ends it before its duration does."""
    price_version: str = ""
    training_price: str = ""
    """Credits a million tokens: the job is charged at it, whatever the prices are when it ends."""
    credits: str = ""
    seconds: tuple[int, int] | None = None
    """Shortest and longest that training is expected to take, by the speeds of the last runs here; None without any."""
    warnings: list[str] = []


class Judged(Frozen, arbitrary_types_allowed=True):
    """A report and the data as it will be trained on, without the rows that are dropped. With faults there is none."""

    report: DataReport
    data: Dataset | None = None


def clean_data(judged: Judged) -> Dataset:
    """The data of a report without faults; BadDataset with every kind of fault and its first rows."""
    if judged.data is not None:
        return judged.data
    report = judged.report
    totals = {"training": report.rows, "validation": report.validation_rows}
    told = "; ".join(
        f"{fault.count} of {totals[fault.of]} {fault.of} rows: {fault.what} (row {_numbers(fault)})"
        for fault in report.faults
    )
    raise BadDataset(f"{told}. Mend these rows, or leave them out with WHERE.")


def finding(what: str, rows: Sequence[int], of: str = "training") -> Finding:
    return Finding(what=what, count=len(rows), rows=list(rows[:MAX_ROWS_NAMED]), of=of)


def findings(rows: Mapping[str, Sequence[int]], of: str) -> list[Finding]:
    """One for each reason, in the order of their first rows."""
    found = [finding(what, numbers, of) for what, numbers in rows.items()]
    rest = found[MAX_KINDS:]
    if not rest:
        return found
    others = sorted(number for each in rest for number in each.rows)[:MAX_ROWS_NAMED]
    count = sum(each.count for each in rest)
    return [*found[:MAX_KINDS], Finding(what=f"{len(rest)} more kinds of fault", count=count, rows=others, of=of)]


def _numbers(finding: Finding) -> str:
    return ", ".join(map(str, finding.rows)) + (", ..." if finding.count > len(finding.rows) else "")
