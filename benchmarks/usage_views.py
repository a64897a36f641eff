"""Statements on a view with a row for each request, over HTTP: how long they take, and the gateway's memory.

python -m benchmarks.usage_views [--rows N] [--url URL] [--out FILE], with nothing else on the machine. A gateway with
the registry's class in its process, over a fresh SQLite, or over the empty PostgreSQL of --url; the ledger has as many
records of one account as the view shows, a hundred in an hour. Each statement has a gateway of its own.
"""

import multiprocessing
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import click
import httpx
import psutil
import sqlalchemy as sa
import uvicorn

from benchmarks.registry import FILL, HOUR_MS, ME, Idle, _record
from benchmarks.report import OUT, heading, tell
from luthier.platform.access import hash_key
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from luthier.serve.api import build_api
from luthier.serve.services import make_services

KEY = "lt_benchmark"
ARROW = {"Accept": "application/vnd.apache.arrow.stream"}
VIEW = "SNOWFLAKE.ACCOUNT_USAGE.CORTEX_REST_API_USAGE_HISTORY"
STATEMENTS: dict[str, tuple[str, dict[str, str]]] = {
    "SELECT *, as JSON": (f"SELECT * FROM {VIEW}", {}),
    "SELECT *, as Arrow": (f"SELECT * FROM {VIEW}", ARROW),
    "COUNT(*)": (f"SELECT COUNT(*) FROM {VIEW}", {}),
    "SUM of tokens by model and user": (f"SELECT MODEL_NAME, USER_ID, SUM(TOKENS) FROM {VIEW} GROUP BY ALL", {}),
    "one hour of it": (f"SELECT COUNT(*) FROM {VIEW} WHERE START_TIME = '1970-02-01 05:00:00+00'", {}),
}
START_SECONDS, LONGEST_SECONDS = 60.0, 600.0


class Measured(NamedTuple):
    seconds: float
    cpu_seconds: float
    """Of the gateway."""
    num_bytes: int
    """Of the answer."""
    grown_bytes: int
    """Of the gateway's memory, at its highest."""


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Records of the account.")
@click.option("--url", default="", help="Of an empty PostgreSQL; SQLite otherwise.")
@OUT
def main(rows: int, url: str, out: Path | None) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), database_url=url)
        Registry(settings, Idle()).access.add_admin_key(ME.account, hash_key(KEY), KEY[:7])
        store = Store(settings.store_url)
        fill(store, rows)
        measured = {name: measure(settings, *statement) for name, statement in STATEMENTS.items()}
        dialect = store.engine.dialect.name
    tell(_text(measured, dialect, rows), out)


def fill(store: Store, num: int) -> None:
    """Records of the account, a hundred in an hour, by a hundred models."""
    usage = _record("", 0).model_dump(mode="json", exclude={"leases"})
    for first in range(0, num, FILL):
        numbers = range(first, min(first + FILL, num))
        rows: list[dict[str, Any]] = [
            {**usage, "source_id": f"req_{number:032x}", "time": number * HOUR_MS // 100, "model": f"M{number % 100}"}
            for number in numbers
        ]
        with store.transaction() as tx:
            tx.execute(sa.insert(store.table("usage")), rows)


def measure(settings: Settings, statement: str, headers: dict[str, str]) -> Measured:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gateway = multiprocessing.get_context("spawn").Process(target=_serve, args=(settings, port), daemon=True)
    gateway.start()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}/luthier/v1", headers={"Authorization": f"Bearer {KEY}"})
    try:
        _wait(client)
        process = psutil.Process(gateway.pid)
        before, spent = process.memory_info().rss, _cpu(process)
        began, num_bytes = time.perf_counter(), 0
        with client.stream(
            "POST", "/sql", json={"statement": statement}, headers=headers, timeout=LONGEST_SECONDS
        ) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                num_bytes += len(part)
        seconds = time.perf_counter() - began
        return Measured(seconds, _cpu(process) - spent, num_bytes, _peak(process) - before)
    finally:
        client.close()
        gateway.terminate()
        gateway.join()


def _serve(settings: Settings, port: int) -> None:
    """Nothing here completes."""
    services = make_services(settings, Registry(settings, Idle()), cast(Any, None))
    uvicorn.run(build_api(services), port=port, log_level="error")


def _wait(client: httpx.Client) -> None:
    """Until it answers a first statement, by which it has loaded what all need."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.post("/sql", json={"statement": "SELECT 1"}, timeout=START_SECONDS).raise_for_status()
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _text(measured: dict[str, Measured], dialect: str, rows: int) -> str:
    title = heading(f"A usage view of {rows} rows, {dialect}", ("duckdb", "pyarrow"))
    lines = [
        "| statement | seconds | of CPU | answer, MB | the gateway's memory grew by, MB |",
        "|---|---|---|---|---|",
    ]
    for name, each in measured.items():
        told = (
            f"{each.seconds:.1f} | {each.cpu_seconds:.1f} | {each.num_bytes / 1e6:.1f} | {each.grown_bytes / 1e6:.0f}"
        )
        lines.append(f"| {name} | {told} |")
    command = f"Command: `python -m benchmarks.usage_views {' '.join(sys.argv[1:])}`"
    return "\n\n".join([title, command, "\n".join(lines)]) + "\n"


if __name__ == "__main__":
    main()
