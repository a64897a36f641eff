"""The ledger against what was counted elsewhere: by replicas, engines, batches and trainers; and limits against it."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.registry.balances import Balances
from luthier.platform.registry.ledger import is_repeat
from luthier.platform.registry.model_rows import IMPORT
from luthier.platform.settings import Settings
from luthier.platform.settled import EngineCounts, Settled, SettledFiles, Totals, owner, totals_of
from luthier.platform.store import Store, fetch
from luthier.platform.weights.artifacts import manifest_if_readable

BATCH_LINES = "batch\\_%"
TRAINER = ("trained_tokens", "evaluated_tokens")
"""What a trainer counts."""
MAX_NAMES = 500
"""In one query."""


class Check(Frozen):
    """One figure from two sides."""

    check: str
    of: str
    """A base model, or what else it is about."""
    what: str
    counted: int
    """By who did the work."""
    waiting: int = 0
    """Of that, on its way to the ledger."""
    ledger: int
    difference: int
    note: str = ""


class Reconciliation(Frozen):
    is_equal: bool
    checks: list[Check]
    notes: list[str]
    """What cannot be compared, and why."""


class ReplicaCounts(Frozen):
    """What a base model's replicas counted."""

    began: int
    counted: Totals
    waiting: Totals
    repeated: Totals
    """Answers to requests that the ledger bills to another answer."""
    engines: dict[int, EngineCounts]
    """By process."""


class Counted(Frozen):
    """What was counted elsewhere, as of one record of the ledger."""

    number: int
    """The last record that the ledger had by then."""
    replicas: dict[str, ReplicaCounts]


class Reconcile:
    """In two verbs: `count` is short and must meet no record on its way; `report` adds up a ledger of any length."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._spools, self._balances = store, settings.home / "spool", Balances(store)
        self._usage, self._jobs, self._batches = (store.table(name) for name in ("usage", "jobs", "batches"))
        self._versions, self._models = store.table("versions"), store.table("models")

    def count(self) -> Counted:
        """What replicas settled, and what of it waits in spools. While this runs the registry takes no record."""
        folders = {path.name: SettledFiles(path) for path in sorted(self._spools.glob("*")) if path.is_dir()}
        last = sa.select(sa.func.coalesce(sa.func.max(self._usage.c.id), 0).label("last"))
        (row,) = self._store.rows(last)
        return Counted(number=row["last"], replicas={name: self._settled(files) for name, files in folders.items()})

    def report(self, counted: Counted | None = None) -> Reconciliation:
        """Of all accounts."""
        counted, notes = counted or self.count(), list[str]()
        with self._store.snapshot() as tx:
            checks = [
                *self._completions(tx, counted, notes),
                *self._lines(tx),
                *(check for what in TRAINER for check in self._trainings(tx, what)),
                *self._manifests(tx, notes),
                *self._limits(tx),
            ]
        return Reconciliation(is_equal=not any(check.difference for check in checks), checks=checks, notes=notes)

    # completions

    def _settled(self, files: SettledFiles) -> ReplicaCounts:
        settled = dict(files.all())  # before the spools: a file that is turned meanwhile is counted once
        began, counted = files.begin(), sum((each.totals for each in settled.values()), Totals())
        spools = [
            (*owner(file), [record for record in records if record.time >= began]) for file, records in files.spools()
        ]
        late = dict(files.all())  # behind the spools: the repeats of a file are told before it is gone
        repeated = sum((each.repeated for each in late.values()), Totals())
        waiting = Totals()
        for process, number, records in spools:
            if number > settled.get(process, Settled()).upto:
                counted = counted + totals_of(records)
            there = self._there(records)
            waiting = waiting + totals_of(record for record in records if record.source_id not in there)
            if number > late.get(process, Settled()).repeated_upto:
                known = [record for record in records if record.source_id in there]
                repeated = repeated + totals_of(each for each in known if is_repeat(there[each.source_id], each))
        engines = {process: each.engine for process, each in settled.items() if each.engine}
        return ReplicaCounts(began=began, counted=counted, waiting=waiting, repeated=repeated, engines=engines)

    def _completions(self, tx: sa.Connection, counted: Counted, notes: list[str]) -> Iterator[Check]:
        columns = self._usage.c
        known = (columns.id <= counted.number, columns.source_id.not_like(BATCH_LINES, escape="\\"))
        for base_model, replicas in counted.replicas.items():
            its = (columns.base_model == base_model, columns.time >= replicas.began)
            ledger = self._totals(tx, *known, *its)
            left = replicas.counted - replicas.waiting - replicas.repeated - ledger
            for what in Totals.model_fields:
                sides = (replicas.counted, replicas.waiting, ledger, left, replicas.repeated)
                counts, waits, has, lacks, again = (int(getattr(totals, what)) for totals in sides)
                note = f"{again} of second answers to requests, which are billed once" if again else ""
                yield _check("completions", base_model, what, counts, waits, has, lacks, note)
            for process, engine in replicas.engines.items():
                yield from _engine(f"{base_model}, process {process}", engine, notes)
        began = {name: replicas.began for name, replicas in counted.replicas.items()}
        for base_model, records in self._before(tx, began).items():
            notes.append(f"{records} completions on {base_model} are older than its replicas' counters.")

    def _there(self, lines: list[UsageRecord]) -> dict[str, dict[str, Any]]:
        """What the ledger has under their ids."""
        columns, found = self._usage.c, dict[str, dict[str, Any]]()
        for start in range(0, len(lines), MAX_NAMES):
            names = columns.source_id.in_([record.source_id for record in lines[start : start + MAX_NAMES]])
            query = sa.select(self._usage).where(columns.kind == UsageKind.COMPLETION.value, names)
            found |= {row["source_id"]: row for row in self._store.rows(query)}
        return found

    def _totals(self, tx: sa.Connection, *where: sa.ColumnElement[bool]) -> Totals:
        columns = self._usage.c
        sums = [sa.func.coalesce(sa.func.sum(columns[name]), 0).label(name) for name in _SUMMED]
        query = sa.select(sa.func.count().label("records"), *sums)
        (row,) = fetch(tx, query.where(columns.kind == UsageKind.COMPLETION.value, *where))
        return Totals(**{name: int(value) for name, value in row.items()})

    def _before(self, tx: sa.Connection, began: dict[str, int]) -> dict[str, int]:
        """Completions that no replica's counters know, by base model."""
        columns, found = self._usage.c, {}
        query = sa.select(columns.base_model).where(columns.kind == UsageKind.COMPLETION.value).distinct()
        for base_model in sorted(row["base_model"] for row in fetch(tx, query)):
            of_replicas = columns.source_id.not_like(BATCH_LINES, escape="\\")
            is_older = columns.time < began.get(base_model, 2**62)
            older = self._totals(tx, columns.base_model == base_model, is_older, of_replicas)
            if older.records:
                found[base_model] = older.records
        return found

    def _lines(self, tx: sa.Connection) -> Iterator[Check]:
        """Answered lines of batches: they are billed by the batch, not by a replica."""
        counts = fetch(tx, sa.select(self._batches.c.counts))
        answered = sum(row["counts"].get("completed", 0) for row in counts)
        ledger = self._totals(tx, self._usage.c.source_id.like(BATCH_LINES, escape="\\")).records
        yield _check("batches", "all batches", "lines", answered, 0, ledger, answered - ledger)

    # limits

    def _limits(self, tx: sa.Connection) -> Iterator[Check]:
        for of, what, shown, total, note in self._balances.differences(tx):
            yield _check("balances", of, what, shown, 0, total, shown - total, note)

    # training

    def _trainings(self, tx: sa.Connection, what: str) -> Iterator[Check]:
        """Jobs that ended against their bills."""
        jobs, usage = self._jobs.c, self._usage.c
        same = sa.and_(usage.kind == UsageKind.TRAINING.value, usage.source_id == jobs.id)
        counted, billed = sa.func.coalesce(jobs[what], 0), sa.func.coalesce(usage[what], 0)
        joined = sa.outerjoin(self._jobs, self._usage, same)
        sums = sa.select(
            jobs.base_model,
            sa.func.sum(counted).label("counted"),
            sa.func.sum(billed).label("ledger"),
            sa.func.sum(sa.func.abs(counted - billed)).label("off"),
        )
        query = sums.select_from(joined).where(jobs.finished_on.is_not(None)).group_by(jobs.base_model)
        for row in fetch(tx, query.order_by(jobs.base_model)):
            sides = (int(row["counted"]), 0, int(row["ledger"]), int(row["off"]))
            off = sa.select(jobs.id).select_from(joined).where(counted != billed, jobs.finished_on.is_not(None))
            names = [each["id"] for each in fetch(tx, off.limit(5))] if row["off"] else []
            yield _check("training", row["base_model"], what, *sides, ", ".join(names))

    def _manifests(self, tx: sa.Connection, notes: list[str]) -> Iterator[Check]:
        """The manifests of versions that jobs made against the bills of those jobs. Replicas' are in another region."""
        versions, usage = self._versions.c, self._usage.c
        same = sa.and_(usage.kind == UsageKind.TRAINING.value, usage.source_id == versions.job_id)
        query = sa.select(versions.base_model, versions.path, *(usage[what] for what in TRAINER))
        of_model = sa.join(self._versions, self._models, versions.model_id == self._models.c.id)
        made = query.select_from(sa.outerjoin(of_model, self._usage, same)).where(self._models.c.replica_of.is_(None))
        sides: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        num_without = 0
        is_import = versions.job_id.startswith(IMPORT, autoescape=True)
        for row in fetch(tx, made.where(~is_import)):
            told = manifest_if_readable(Path(row["path"]))
            num_without += "trained_tokens" not in told
            for what in TRAINER:
                if what in told:
                    counted, billed = told[what], row[what] or 0
                    for at, number in enumerate((counted, billed, abs(counted - billed))):
                        sides[row["base_model"], what][at] += number
        if num_without:
            notes.append(f"{num_without} versions have no manifest that tells trained tokens.")
        for (base_model, what), (counted, ledger, off) in sorted(sides.items()):
            yield _check("manifests", base_model, what, counted, 0, ledger, off)


_SUMMED = ("prompt_tokens", "completion_tokens", "amount_ucr")


def _engine(of: str, counts: EngineCounts, notes: list[str]) -> Iterator[Check]:
    """vLLM's own counters against all that was asked of it, as of the process's last bill."""
    if counts.difference is None:
        notes.append(f"The engine of {of} was at work at its last bill: its counters are compared when it rests.")
        return
    told = counts.billed + counts.elsewhere + counts.unbilled + counts.probes
    parts = {
        "billed": counts.billed,
        "by batches": counts.elsewhere,
        "not billed": counts.unbilled,
        "probes": counts.probes,
    }
    for what, engine, left in (
        ("prompt_tokens", counts.prompt_tokens, counts.difference[0]),
        ("completion_tokens", counts.generation_tokens, counts.difference[1]),
    ):
        words = [f"{getattr(totals, what)} {name}" for name, totals in parts.items() if getattr(totals, what)]
        if what == "prompt_tokens":
            words += [f"{counts.repeated_prompt_tokens} of further choices"] if counts.repeated_prompt_tokens else []
            words += [f"{counts.abandoned_prompt_tokens} abandoned"] if counts.abandoned_prompt_tokens else []
        yield _check("engine", of, what, engine, 0, getattr(told, what), left, ", ".join(words))


def _check(  # noqa: PLR0913 - the columns of a table
    check: str, of: str, what: str, counted: int, waiting: int, ledger: int, left: int, note: str = ""
) -> Check:
    return Check(
        check=check, of=of, what=what, counted=counted, waiting=waiting, ledger=ledger, difference=left, note=note
    )
