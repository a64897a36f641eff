"""The ledger against what was counted elsewhere: by replicas, by engines, by batches, by trainers.

While it compares, the registry takes no record: what is not in the ledger by then is in a spool.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from luthier.platform.artifacts import MANIFEST
from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.registry.model_rows import IMPORT
from luthier.platform.settings import Settings
from luthier.platform.settled import EngineCounts, Settled, SettledFiles, Totals, owner, totals_of
from luthier.platform.store import Store

BATCH_LINES = "batch\\_%"
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


class Reconcile:
    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._spools = store, settings.home / "spool"
        self._usage, self._jobs, self._batches = (store.table(name) for name in ("usage", "jobs", "batches"))
        self._versions = store.table("versions")

    def report(self) -> Reconciliation:
        """Of all accounts."""
        notes: list[str] = []
        checks = [*self._completions(notes), *self._lines(), *self._trainings(), *self._manifests(notes)]
        return Reconciliation(is_equal=not any(check.difference for check in checks), checks=checks, notes=notes)

    # completions

    def _completions(self, notes: list[str]) -> Iterator[Check]:
        folders = {path.name: SettledFiles(path) for path in sorted(self._spools.glob("*")) if path.is_dir()}
        for base_model, files in folders.items():
            settled = dict(files.all())  # before the spools: a file that is turned meanwhile is counted once
            yield from self._settled(base_model, files, settled)
            for pid, each in settled.items():
                if each.engine:
                    yield from _engine(f"{base_model}, process {pid}", each.engine, notes)
        for base_model, records in self._before(folders).items():
            notes.append(f"{records} completions on {base_model} are older than its replicas' counters.")

    def _settled(self, base_model: str, files: SettledFiles, settled: dict[int, Settled]) -> Iterator[Check]:
        began, counted = files.begin(), sum((each.totals for each in settled.values()), Totals())
        lines: list[UsageRecord] = []
        for file, records in files.spools():
            pid, number = owner(file)
            young = [record for record in records if record.time >= began]
            lines += young
            if number > settled.get(pid, Settled()).upto:
                counted = counted + totals_of(young)
        waiting = totals_of(self._not_there(lines))
        columns = self._usage.c
        ledger = self._totals(
            columns.base_model == base_model,
            columns.time >= began,
            columns.source_id.not_like(BATCH_LINES, escape="\\"),
        )
        left = counted - waiting - ledger
        for what in Totals.model_fields:
            sides = (getattr(totals, what) for totals in (counted, waiting, ledger, left))
            yield _check("completions", base_model, what, *sides)

    def _not_there(self, lines: list[UsageRecord]) -> Iterator[UsageRecord]:
        columns = self._usage.c
        for start in range(0, len(lines), MAX_NAMES):
            some = lines[start : start + MAX_NAMES]
            names = columns.source_id.in_([record.source_id for record in some])
            query = sa.select(columns.source_id).where(columns.kind == UsageKind.COMPLETION.value, names)
            there = {row["source_id"] for row in self._store.rows(query)}
            yield from (record for record in some if record.source_id not in there)

    def _totals(self, *where: sa.ColumnElement[bool]) -> Totals:
        columns = self._usage.c
        sums = [sa.func.coalesce(sa.func.sum(columns[name]), 0).label(name) for name in _SUMMED]
        query = sa.select(sa.func.count().label("records"), *sums)
        (row,) = self._store.rows(query.where(columns.kind == UsageKind.COMPLETION.value, *where))
        return Totals(**{name: int(value) for name, value in row.items()})

    def _before(self, folders: dict[str, SettledFiles]) -> dict[str, int]:
        """Completions that no replica's counters know, by base model."""
        columns, found = self._usage.c, {}
        query = sa.select(columns.base_model).where(columns.kind == UsageKind.COMPLETION.value).distinct()
        for base_model in sorted(row["base_model"] for row in self._store.rows(query)):
            until = folders[base_model].begin() if base_model in folders else 2**62
            of_replicas = columns.source_id.not_like(BATCH_LINES, escape="\\")
            older = self._totals(columns.base_model == base_model, columns.time < until, of_replicas)
            if older.records:
                found[base_model] = older.records
        return found

    def _lines(self) -> Iterator[Check]:
        """Answered lines of batches: they are billed by the batch, not by a replica."""
        counts = self._store.rows(sa.select(self._batches.c.counts))
        answered = sum(row["counts"].get("completed", 0) for row in counts)
        ledger = self._totals(self._usage.c.source_id.like(BATCH_LINES, escape="\\")).records
        yield _check("batches", "all batches", "lines", answered, 0, ledger, answered - ledger)

    # training

    def _trainings(self) -> Iterator[Check]:
        """Jobs that ended against their bills."""
        jobs, usage = self._jobs.c, self._usage.c
        same = sa.and_(usage.kind == UsageKind.TRAINING.value, usage.source_id == jobs.id)
        counted, billed = sa.func.coalesce(jobs.trained_tokens, 0), sa.func.coalesce(usage.trained_tokens, 0)
        joined = sa.outerjoin(self._jobs, self._usage, same)
        sums = sa.select(
            jobs.base_model,
            sa.func.sum(counted).label("counted"),
            sa.func.sum(billed).label("ledger"),
            sa.func.sum(sa.func.abs(counted - billed)).label("off"),
        )
        query = sums.select_from(joined).where(jobs.finished_on.is_not(None)).group_by(jobs.base_model)
        for row in self._store.rows(query.order_by(jobs.base_model)):
            sides = (int(row["counted"]), 0, int(row["ledger"]), int(row["off"]))
            off = sa.select(jobs.id).select_from(joined).where(counted != billed, jobs.finished_on.is_not(None))
            names = [each["id"] for each in self._store.rows(off.limit(5))] if row["off"] else []
            yield _check("training", row["base_model"], "trained_tokens", *sides, ", ".join(names))

    def _manifests(self, notes: list[str]) -> Iterator[Check]:
        """The manifests of versions that jobs made against the bills of those jobs."""
        versions, usage = self._versions.c, self._usage.c
        same = sa.and_(usage.kind == UsageKind.TRAINING.value, usage.source_id == versions.job_id)
        query = sa.select(versions.job_id, versions.base_model, versions.path, usage.trained_tokens)
        made = query.select_from(sa.outerjoin(self._versions, self._usage, same))
        sides: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        num_without = 0
        is_import = versions.job_id.startswith(IMPORT, autoescape=True)
        for row in self._store.rows(made.where(~is_import)):
            trained, billed = _trained_tokens(Path(row["path"])), row["trained_tokens"] or 0
            num_without += trained is None
            if trained is not None:
                side = sides[row["base_model"]]
                sides[row["base_model"]] = [side[0] + trained, side[1] + billed, side[2] + abs(trained - billed)]
        if num_without:
            notes.append(f"{num_without} versions have no manifest that tells trained tokens.")
        for base_model, (counted, ledger, off) in sorted(sides.items()):
            yield _check("manifests", base_model, "trained_tokens", counted, 0, ledger, off)


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


def _check(check: str, of: str, what: str, counted: int, waiting: int, ledger: int, left: int, note: str = "") -> Check:  # noqa: PLR0913 - the columns of a table
    return Check(
        check=check, of=of, what=what, counted=counted, waiting=waiting, ledger=ledger, difference=left, note=note
    )


def _trained_tokens(folder: Path) -> int | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest.get("trained_tokens")
