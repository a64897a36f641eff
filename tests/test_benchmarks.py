"""The benchmarks without their peers.

Training: its command, Luthier's side on the tiny model, its tables. Serving: its command, traffic, statistics, tables
and closed loop, on servers that are none.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click import ClickException
from click.testing import CliRunner

from benchmarks import adapters, serve, train
from benchmarks.processes import MARK, between, end, group_of, marked, spent
from benchmarks.serve_load import Load, Plan, closed_loop
from benchmarks.serve_report import percentile, report
from benchmarks.serve_run import Amount, Run, counters, run_point
from benchmarks.serve_sides import BASE, Running, Server, Setup, flags
from benchmarks.serve_traffic import Point, asked_models, points, texts
from benchmarks.train_worker import Result, Task, _trl_settings, measure
from luthier.platform.base_models import load_catalog
from luthier.platform.settings import Settings

NUM_ROWS = 8
"""Of each set: three steps of eight rows."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [(f"what is {number} and {number}?", str(2 * number)) for number in range(NUM_ROWS)]
    pairs = [{"question": asked, "answer": told} for asked, told in rows]
    tasks = [{"instruction": asked, "instances": [{"input": "", "output": told}]} for asked, told in rows]
    texts = {
        "gsm8k/train.jsonl": "\n".join(map(json.dumps, pairs)),
        "banking77/train.csv": "\n".join(["text,category", *(f"{asked},{told}" for asked, told in rows)]),
        "self-instruct/seed_tasks.jsonl": "\n".join(map(json.dumps, tasks)),
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def task(tiny_model: Path, tmp_path: Path) -> Task:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"] * 3, "completion": ["c", "d"] * 3}), file)
    return Task(
        by="Luthier",
        mode="",
        precision="fp32",
        base_dir=tiny_model,
        rows_file=file,
        steps=3,
        batch_rows=2,
        device="cpu",
        threads=1,
    )


def test_the_command_compares_and_reports(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(task: Task, _trl_path: Path) -> Result:
        """Of TRL what Luthier does, in twice the time."""
        result = measure(task.model_copy(update={"by": "Luthier"}))
        longer = 1 if task.by == "Luthier" else 2
        return result.model_copy(update={"seconds": tuple(longer * at for at in range(len(result.tokens)))})

    monkeypatch.setattr(train, "_run", run)
    out = tmp_path / "result.md"
    options = {"trl-path": data, "base-dir": tiny_model, "mode": "packing", "device": "cpu", "steps": 3, "threads": 1}
    given = [f"--{name}={value}" for name, value in {**options, "rounds": 1, "out": out}.items()]
    done = CliRunner().invoke(train.main, [str(data), "--mode=padded", *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert text in done.output
    assert re.match(r"# Training: Luthier against TRL, tiny, mixed rows\n\n\d{4}-\d\d-\d\d, commit .*, torch ", text)
    names = re.findall(r"^\| (\w+, [^|]*?) \|", text, re.MULTILINE)
    assert {"Luthier, bf16 weights", "Luthier, fp32", "TRL, padded, fp32", "TRL, packing, bf16 autocast"} <= set(names)
    assert "Luthier / TRL, padded, fp32: **2.00** of the medians" in text


def test_a_process_of_its_own_trains_the_same(task: Task, tmp_path: Path) -> None:
    result, expected = train._run_once(task, tmp_path), measure(task)
    assert (len(result.seconds), result.tokens, result.pads) == (3, expected.tokens, (0, 0, 0))
    assert result.losses == pytest.approx(expected.losses, abs=1e-3)
    assert result.speed > 0


def test_a_gpu_has_no_fp32_and_counts_the_wall(task: Task) -> None:
    known = task.model_dump(exclude={"by", "mode", "precision"}) | {"device": "cuda"}
    tasks = train._tasks(known, ("default", "padding_free"))
    assert [(each.mode, each.precision) for each in tasks] == [
        ("", "bf16 weights"),
        ("default", "bf16 autocast"),
        ("padding_free", "bf16 autocast"),
        ("padding_free", "bf16 weights"),
    ]
    assert not any(each.counts_cpu for each in tasks)
    assert not _trl_settings(tasks[-1], [4, 4])["use_cpu"]


NAMES = [f"A{number}" for number in range(8)]


def make_run(seconds: float = 2.0, **given: object) -> Run:
    load = Load(
        seconds=seconds,
        latencies=(0.1,) * 99 + (1.0,),
        prompt_tokens=1000,
        completion_tokens=3200,
        errors=(),
        cpu={"engine": 1.0, "load": 0.5},
    )
    return Run.model_validate(
        {"load": load, "ledger": None, "counters": {}, "facts": "threads that compute: 2", **given}
    )


def test_traffic_is_even_or_skewed_and_the_same_again() -> None:
    even, skewed = (asked_models(NAMES, traffic, 800, 1) for traffic in ("even", "skewed"))
    assert set(Counter(even).values()) == {100}
    assert even != asked_models(NAMES, "even", 800, 2)
    times = [Counter(skewed)[name] for name in NAMES]
    assert times[0] > 1.5 * times[1] > 2 * times[7] > 0
    assert skewed == asked_models(NAMES, "skewed", 800, 1)


def test_texts_of_another_door_differ_in_one_letter() -> None:
    first, second = texts(50, 0, 7), texts(50, 1, 7)
    assert [text[1:] for text in first] == [text[1:] for text in second]
    assert {text[0] for text in first} == {"0"}
    assert {text[0] for text in second} == {"1"}
    assert len(set(first)) == 50


def test_points_are_every_combination_once() -> None:
    made = points([1, 64], [0, 1, 8], ["even", "skewed"], [True, False])
    assert len(made) == 2 * (1 + 1 + 2) * 2
    assert made[0].name == "1 at once, base model, streamed"
    assert made[-1].name == "64 at once, 8 adapters, skewed, whole"
    assert [point.num_requests(512) for point in made[:2]] == [32, 512]
    assert points([256], [0], ["even"], [True])[0].num_requests(100) == 512


def test_percentiles_counters_and_groups() -> None:
    assert percentile([], 0.99) == 0
    assert [percentile([3, 1, 2], share) for share in (0, 0.5, 0.75, 1)] == [1, 2, 2.5, 3]
    text = '# HELP x\nlora_loads_total{a="1"} 2.0\nlora_loads_total{a="2"} 3.0\nvllm:lora_info 9\nother_total 1\n'
    assert counters(text) == {"lora_loads_total": 5.0}
    titles = ("VLLM::EngineCore", "ray::ServeReplica:bench", "ray::ProxyActor", "ray::RegistryActor", "raylet")
    assert [group_of(title) for title in titles] == ["engine", "front", "proxy", "registry", "rest"]
    assert between({1: ("engine", 1.0)}, {1: ("engine", 3.0), 2: ("engine", 0.5)}) == {"engine": 2.5}


def test_engine_arguments_become_options() -> None:
    assert flags({"max_loras": 4, "enable_lora": True, "enforce_eager": False}) == ["--max-loras", "4", "--enable-lora"]


def test_the_tables_of_serving() -> None:
    point = Point(concurrency=64, adapters=2, traffic="even", streamed=False)
    told = {"luthier_adapter_hits_total": 6.0, "luthier_adapter_misses_total": 2.0}
    ours = [make_run(2.0, ledger=(0, 0)), make_run(2.5, ledger=(0, -3), counters=told)]
    text = report("tiny", ["vLLM keeps 0 CPUs."], {point: {"Luthier /v1": ours, "vLLM": [make_run(4.0)] * 2}})
    assert re.match(r"# Serving: Luthier against vLLM and Ray, tiny\n\n\d{4}-\d\d-\d\d, commit .*, ray ", text)
    assert "- Luthier /v1: threads that compute: 2" in text
    assert "## 64 at once, 2 adapters, even, whole" in text
    line = "| Luthier /v1 | 45.0 (40.0 to 50.0) | 1440 (1280 to 1600) | 32.0 | 100.0, 109.0 |  |  | 0 |"
    assert f"{line} +0 prompt, -3 completion | 25.0% |" in text
    assert "| vLLM | 10.0 | 0.0 | 0.0 | 0.0 | 0.0 | 5.0 | 0.0 |" in text
    assert "- Luthier /v1 / vLLM: **1.80** of the medians' requests/s, 1.60 to 2.00 a round; p99 1.00." in text


def test_the_closed_loop_keeps_so_many_under_way() -> None:
    under_way, most = 0, 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way, body = under_way + 1, await request.json()
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        if body["model"] == "A1":
            return web.Response(status=404, text="no A1")
        return web.json_response({"usage": {"prompt_tokens": 5, "completion_tokens": body["max_completion_tokens"]}})

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        async with TestServer(app) as server:
            plan = Plan(
                url=str(server.make_url("/v1")),
                headers={},
                models=("A0", "A1") * 4,
                texts=("hi",) * 8,
                tokens=3,
                extra={"temperature": 0},
                concurrency=4,
                streamed=False,
                mark="none",
            )
            seconds, answers = await closed_loop(plan)
        good = [each for each in answers if not each.error]
        assert [(each.prompt_tokens, each.completion_tokens) for each in good] == [(5, 3)] * 4
        assert {each.error for each in answers} == {"", "404 no A1"}
        assert seconds >= max(each.latency for each in good) > 0

    asyncio.run(run())
    assert most == 4


class Answers(BaseHTTPRequestHandler):
    """A server that counts what it answers."""

    prompt_tokens = completion_tokens = 0
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("ignore_eos"):
            return self._answer(400, b"ignore_eos is unknown")
        usage = {"prompt_tokens": 5, "completion_tokens": body["max_completion_tokens"]}
        Answers.prompt_tokens += usage["prompt_tokens"]
        Answers.completion_tokens += usage["completion_tokens"]
        return self._answer(200, json.dumps({"usage": usage}).encode())

    def do_GET(self) -> None:
        self._answer(200, f"lora_loads_total {Answers.prompt_tokens}".encode())

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def running() -> Iterator[Running]:
    Answers.prompt_tokens = Answers.completion_tokens = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Running(
            "none", {"it": f"{url}/v1"}, url, ledger=lambda: (Answers.prompt_tokens, Answers.completion_tokens + 1)
        )
        server.shutdown()


def test_a_measurement_counts_what_the_ledger_must(running: Running) -> None:
    point = Point(concurrency=2, adapters=2, traffic="even", streamed=False)
    run = run_point(running, running.doors["it"], point, ["A0", "A1"], Amount(10, 3, {}), seeds=(0, 0))
    assert run.ledger == (0, 0)
    assert (run.load.prompt_tokens, run.load.completion_tokens, run.load.errors) == (50, 30, ())
    assert run.counters == {"lora_loads_total": 50}, "without those that warmed up"
    assert set(run.load.cpu) == {"load", "others"}
    assert run.speed == 10 / run.load.seconds


def test_who_refuses_a_body_refuses_it_before_the_measurement(running: Running) -> None:
    point = Point(concurrency=1, adapters=0, traffic="even", streamed=False)
    with pytest.raises(ClickException, match="400 ignore_eos is unknown"):
        run_point(running, running.doors["it"], point, [BASE], Amount(1, 3, {"ignore_eos": True}), seeds=(0, 0))


def test_a_server_ends_with_all_its_processes() -> None:
    child = "import subprocess; subprocess.run(['sleep', '60'], env={})"
    started = subprocess.Popen([sys.executable, "-c", child], env={**os.environ, MARK: "mine"})
    while len(marked("mine")) < 2:
        time.sleep(0.01)
    seconds = spent("mine")
    assert {group for group, _ in seconds.values()} == {"rest"}
    assert not marked("another")
    end("mine")
    assert not marked("mine")
    started.wait()


def test_the_command_of_serving_alternates_its_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def side(name: str, has_adapters: bool = True) -> Server:
        @contextmanager
        def start(setup: Setup) -> Iterator[Running]:
            started.append(name)
            assert setup.base_models == (BASE, f"{BASE}2")
            assert list(setup.adapters) == ["A0", "A1"]
            assert setup.engine["max_lora_rank"] == 8
            yield Running(name, {name: "http://nowhere/v1"}, "http://nowhere/metrics", has_adapters)

        return start

    monkeypatch.setattr(serve, "luthier", side("Luthier /v1"))
    monkeypatch.setattr(serve, "vllm", lambda reserved: side("vLLM"))
    monkeypatch.setattr(serve, "ray_serve_llm", side("ray.serve.llm", has_adapters=False))
    speeds = {"Luthier /v1": 1.0, "vLLM": 2.0, "ray.serve.llm": 4.0}
    monkeypatch.setattr(serve, "run_point", lambda running, *_, **__: make_run(speeds[running.mark]))
    out = tmp_path / "result.md"
    given = ["--concurrency=16", "--adapters=0", "--adapters=2", "--traffic=even", "--answers=whole", "--rounds=2"]
    done = CliRunner().invoke(serve.main, [*given, "--base-models=2", f"--out={out}"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    a, b, c = speeds
    assert started == [b, b, a, b, c, c, b, a]
    text = out.read_text()
    assert "Luthier /v1 / ray.serve.llm: **4.00**" in text
    assert text.count("ray.serve.llm |") == 2, "none of its figures are of adapters"
    assert "rounds 2, tokens 32, ignore eos True" in text
    assert "Screening, 16 at once, base model, whole: 50.0 requests/s when it keeps 0" in text


def test_the_adapters_report_takes_the_base_model_off(settings: Settings) -> None:
    base = load_catalog(settings).get("tiny")
    rows = {
        "the base model": ([10.0, 20.0, 30.0], [40.0], [5.0]),
        "adapters in storage": ([70.0] * 9, [80.0], [6.0, 8.0]),
    }
    text = adapters._report(base, rows, "Words.")
    assert "| adapters in storage | 70.0, 70.0, 70.0 | 80.0, 80.0, 80.0 | 7.0, 8.0, 8.0 |" in text
    assert "**50 ms** (p50) and **50 ms** (p99) after the base model's" in text
