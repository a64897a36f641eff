"""What the soak demands: of the answers, of the ledger, and of the server once the clients have gone."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.soak_acts import ACTS
from benchmarks.soak_traffic import Seen
from benchmarks.soak_watch import MANY, STORE, Watch, quarters, rise
from luthier.cli.client import Client

MAX_MIB = {"engines": 8.0, "replicas": 8.0, "gateway": 8.0, "registry": 3.0, "reader": 3.0, "HAProxy": 3.0}
"""That a role may rise by in MANY acts: 8 are 0.8 KiB an act."""
READ_THE_STORE = ("registry", "reader")
"""SQLite keeps pages in memory, up to 64 MiB a connection: they may rise as the store does, too."""
MAX_FILES = 10.0
"""That a role may rise by in MANY acts, from rest to rest: one that stays for each thousand acts is found."""
MIN_EVICTIONS = 100


class Check(NamedTuple):
    what: str
    is_good: bool
    found: str


class Counts(NamedTuple):
    """By the engines' metrics, over both."""

    running: float = 0.0
    waiting: float = 0.0
    places: float = 0.0
    refused: float = 0.0


NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "luthier_sequences": "places",
    "luthier_requests_refused_total": "refused",
}


def of_answers(seen: Sequence[Seen], access_log: Path) -> Iterator[Check]:
    odd = [each for each in seen if each.status not in ACTS[each.act][2]]
    first = f": {odd[0]}; the access log: {_written(odd[0], access_log)}" if odd else ""
    yield Check("every act ended as it may", not odd, f"{len(odd)} did not{first}")
    ends: dict[str, set[int]] = defaultdict(set)
    for each in seen:
        ends[each.act].add(each.status)
    never = [act for act in ACTS if not ends[act] - {429}]
    yield Check("every act came to more than a refusal", not never, f"all but {', '.join(never)}" if never else "all")
    refused = [each for each in seen if each.status == 429]
    timely = all(1 <= each.retry_after <= 30 for each in refused)
    yield Check("the refused know when to come again", timely, f"{len(refused)} were refused")


def _written(one: Seen, access_log: Path) -> str:
    """A request that no replica had is not in it."""
    lines = access_log.read_text().splitlines() if one.id else []
    return ", ".join(line for line in lines if one.id in line) or "nothing"


def of_the_ledger(seen: Sequence[Seen], records: Mapping[str, tuple[int, int]]) -> Iterator[Check]:
    finished = {each.id: (each.prompt_tokens, each.completion_tokens) for each in seen if each.status == 200}
    wrong = [key for key, counts in finished.items() if records.get(key) != counts]
    found = f"{len(finished)}, {len(wrong)} not{f': {wrong[0]}' if wrong else ''}"
    yield Check("the ledger has each answer as its client counted it", not wrong, found)


def of_the_engines_counters(report: Mapping[str, Any], num_engines: int) -> Check:
    """`luthier ledger reconcile`: what vLLM read and made is billed, or was asked by us to prove adapters."""
    off = [f"{each['check']} of {each['of']}: {each['difference']} {each['what']}" for each in report["checks"]]
    off = [told for told, each in zip(off, report["checks"], strict=True) if each["difference"]]
    compared = [each for each in report["checks"] if each["check"] == "engine" and each["counted"]]
    made = sum(each["counted"] for each in compared if each["what"] == "completion_tokens")
    found = f"{made} made, {len(compared)} counters of {2 * num_engines} compared; {', '.join(off) or 'none is off'}"
    what = "reconcile explains all tokens that vLLM read and made"
    return Check(what, not off and len(compared) == 2 * num_engines, found)


def of_the_balance(client: Client) -> Check:
    spent = Decimal(client.credits.balance()["spent"])
    billed = sum((Decimal(row["credits"]) for row in client.usage("completions", group_by=("base_model",))), Decimal())
    return Check("the balance fell by what the ledger says", spent == billed > 0, f"{spent} and {billed} credits")


def of_the_adapters(before: int, after: int) -> Check:
    told = f"{after - before} made room"
    return Check("adapters came and went all the time", after - before >= MIN_EVICTIONS, told)


def of_the_rest(spool: Path, after: Counts, idle_seconds: float) -> Iterator[Check]:
    yield Check("a second after the last client nobody is in the engines", idle_seconds <= 1, f"{idle_seconds:.2f} s")
    yield Check("vLLM has no request", after.running + after.waiting == 0, f"{after.running}, {after.waiting}")
    spooled = sum(file.stat().st_size for file in spool.glob("*/*.jsonl"))
    yield Check("no usage waits", spooled == 0, f"{spooled} bytes")


def of_leaks(watch: Watch) -> Iterator[Check]:
    stored = max(0.0, rise(watch.looks[STORE]))
    for role, looks in watch.looks.items():
        if role == STORE:
            continue
        by, most = rise(looks), MAX_MIB[role] + (stored if role in READ_THE_STORE else 0.0)
        told = f"{_rise(by, most)}; {', '.join(map(str, quarters(looks)))} MiB"
        yield Check(f"memory of the {role} stays", by <= most, told)
        before, after = watch.at_rest[role]
        by = (after.files - before.files) * MANY / after.acts
        told = f"{_rise(by, MAX_FILES)}; {before.files}, {after.files}"
        yield Check(f"open files of the {role} stay", by <= MAX_FILES, told)


def _rise(by: float, most: float) -> str:
    return f"{by:+.1f} for {MANY:,} acts, {most:.1f} may be"
