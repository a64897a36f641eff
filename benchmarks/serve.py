"""Luthier's serving against vLLM's own API server and Ray's ray.serve.llm: requests, tokens, waiting, CPU; on a CPU.

python -m benchmarks.serve [--model tiny | smollm2-135m | DIR] [--concurrency N]... [--adapters N]... [--out FILE]

One model, the same engine arguments, prompts and load; the servers alternate (ABBA), one at a time, each in processes
of its own. Luthier's keys and metering are on, and its ledger must count the tokens that the clients counted. Adapters
are PEFT's with random weights, imported into Luthier. A short screening finds how many CPUs vLLM best keeps for its
server.
"""

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from benchmarks.report import OUT, tell
from benchmarks.serve_report import Runs, report
from benchmarks.serve_run import Amount, run_point
from benchmarks.serve_setup import engine_options, prepare, told
from benchmarks.serve_sides import BASE, Server, Setup, luthier, ray_serve_llm, vllm
from benchmarks.serve_traffic import Point, Traffic, points

TRAFFIC: dict[str, tuple[Traffic, ...]] = {"even": ("even",), "skewed": ("skewed",), "both": ("even", "skewed")}
STREAMED: dict[str, tuple[bool, ...]] = {"whole": (False,), "streamed": (True,), "both": (True, False)}
Place = TypeVar("Place")
BODY: dict[str, Any] = {"temperature": 0.0}
RESERVED = (0, 1)


@click.command()
@click.option("--model", default="tiny", show_default=True, help="tiny, smollm2-135m or a folder.")
@click.option("--against", multiple=True, type=click.Choice(["vllm", "ray"]), default=["vllm", "ray"])
@click.option("--concurrency", multiple=True, type=click.IntRange(1), default=[1, 16, 64, 256], show_default=True)
@click.option("--adapters", multiple=True, type=click.IntRange(0), default=[0, 1, 8, 64, 256], show_default=True)
@click.option("--traffic", type=click.Choice(list(TRAFFIC)), default="both", show_default=True)
@click.option("--answers", type=click.Choice(list(STREAMED)), default="both", show_default=True)
@click.option("--rounds", default=4, show_default=True, help="An even number gives each side each place.")
@click.option(
    "--requests", default=512, show_default=True, help="Of a measurement; less when few are under way at once."
)
@click.option("--tokens", default=32, show_default=True, help="Of an answer.")
@click.option("--ignore-eos/--end-at-eos", default=True, show_default=True, help="All answers have --tokens tokens.")
@click.option("--base-models", default=1, show_default=True, help="That Luthier serves at once; all but one are idle.")
@click.option(
    "--door", "doors", multiple=True, default=["/v1", f"/m/{BASE}/v1"], show_default=True, help="Of Luthier's."
)
@click.option("--vllm-reserved", type=click.IntRange(0), help="CPUs that vLLM keeps for its server; else it screens.")
@engine_options
@OUT
def main(model: str, against: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Compares and prints the tables."""
    asked = points(
        options["concurrency"], options["adapters"], TRAFFIC[options["traffic"]], STREAMED[options["answers"]]
    )
    amount = Amount(
        options["requests"], options["tokens"], BODY | ({"ignore_eos": True} if options["ignore_eos"] else {})
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        setup = prepare(model, Path(scratch), options)
        servers: list[Server] = [luthier]
        notes = [_told(setup, options)]
        if "vllm" in against:
            reserved, note = _reserved(setup, asked, amount, options["vllm_reserved"])
            servers.append(vllm(reserved))
            notes.append(note)
        if "ray" in against:
            servers.append(ray_serve_llm)
        runs: Runs = {point: defaultdict(list) for point in asked}
        for turn in range(options["rounds"]):
            for server in _turned(servers, turn):
                _measure(server, setup, amount, turn, runs)
            if out:  # what hours gave outlives a failure in the next round
                out.write_text(report(Path(model).name, notes, runs))
    tell(report(Path(model).name, notes, runs), out)


OWN = (
    "Luthier's engine has its own beside these: the worker in the engine's process, one computing thread for a small"
    " model, bound to a CPU with the rest of its process, its products for LoRA, rooms for the targets that its"
    " adapters can have, one kind of grammar."
)
LIMITED = "Its account has a balance: each request reserves credits before it runs."


def _told(setup: Setup, options: Mapping[str, Any]) -> str:
    """What the run was asked to do."""
    asked = ("rounds", "tokens", "ignore_eos", "base_models")
    return f"{told({name: options[name] for name in asked} | setup.engine)}. {OWN} {LIMITED}"


def _reserved(setup: Setup, asked: list[Point], amount: Amount, given: int | None) -> tuple[int, str]:
    """How many CPUs vLLM keeps, and why: as asked, or what answers more under the heaviest load of the base model."""
    if given is not None:
        return given, f"vLLM keeps {given} CPUs for its server."
    heaviest = max(asked, key=lambda point: (-point.adapters, point.concurrency))
    speeds = {}
    for reserved in RESERVED:
        runs: Runs = {heaviest: defaultdict(list)}
        _measure(vllm(reserved), setup, amount, 0, runs)
        speeds[reserved] = runs[heaviest]["vLLM"][0].speed
    told = ", ".join(f"{speed:.1f} requests/s when it keeps {reserved}" for reserved, speed in speeds.items())
    best = max(speeds, key=lambda reserved: speeds[reserved])
    return best, f"vLLM keeps {best} CPUs for its server. Screening, {heaviest.name}: {told}."


def _measure(server: Server, setup: Setup, amount: Amount, turn: int, runs: Runs) -> None:
    """All loads on one start of a server; its doors take turns."""
    with server(setup) as running:
        for number, (point, sides) in enumerate(runs.items()):
            if point.adapters and not running.has_adapters:
                continue
            for lead, (side, url) in _turned(list(enumerate(running.doors.items())), turn):
                names = list(setup.adapters)[: point.adapters] or [BASE]
                run = run_point(running, url, point, names, amount, seeds=(turn * len(runs) + number, lead))
                sides[side].append(run)
                click.echo(f"{datetime.now(UTC):%H:%M:%S} {side}, {point.name}: {run.told}", err=True)


def _turned(places: list[Place], turn: int) -> list[Place]:
    """ABBA: each second round goes the other way."""
    return places if turn % 2 == 0 else places[::-1]


if __name__ == "__main__":
    main()
