"""From CREATE to the end of the first step, against a bare script that does that step; and where each second goes.

python -m benchmarks.startup [--rounds N] [--out FILE], against a Luthier that is up. Jobs and scripts alternate; a job
is cancelled after its first step. The script loads the same weights, tunes the same adapter on as many tokens, and has
everything in one process. The first job of a cluster also starts Ray Train's actors that stay.
"""

import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

import click

from benchmarks.report import OUT, PACKAGES, heading, tell
from luthier.cli.client import Client
from luthier.platform.base_models import base_model_dir, load_catalog
from luthier.platform.settings import load_settings

BASE, TABLE, MODEL = "smollm2-135m", "startup_rows", "startup"
PAIRS = [(f"Which word follows {word}?", word.upper()) for word in ("one", "two", "three", "four")]
MARKS = {
    "CREATED": "CREATE: rows judged and frozen",
    "STARTED": "the registry's turn",
    "supervisor": "the supervisor's process",
    "worker": "Ray Train's controller and worker",
    "MODEL_INITIALIZED": "imports, weights",
    "TRAIN_STARTED": "rows to tokens",
    "step 1": "the first step",
}
"""Where a stretch of time ends, and what it is."""
SCRIPT = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, *texts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-4, fused=True)
texts = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False) for text in texts]
batch = tokenizer(texts, return_tensors="pt", padding=True)
model(**batch, labels=batch["input_ids"]).loss.backward()
optimizer.step()
"""


@click.command()
@click.option("--rounds", default=3, show_default=True)
@OUT
def main(rounds: int, out: Path | None) -> None:
    """Prints the table."""
    client, folder = Client(), base_model_dir(load_settings(), load_catalog(load_settings()).get(BASE))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.csv"
        file.write_text("prompt,completion\n" + "".join(f"{a},{b}\n" for a, b in PAIRS * 4))
        client.tables.create(TABLE, file, replace=True)
    jobs, scripts = [], []
    for _ in range(rounds):
        jobs.append(_job(client))
        scripts.append(_script(folder))
    tell(_report(jobs, scripts), out)


def _job(client: Client) -> dict[str, float]:
    """Seconds from the call of CREATE to each mark."""
    began = time.time()
    options = {"training_duration": "500ba", "seed": int(began)}
    job = client.finetune.create(MODEL, BASE, f"SELECT * FROM {TABLE}", options=options)
    while not job.metrics()["time"]:
        if error := job.describe().get("error"):
            raise click.ClickException(error["message"])
        time.sleep(0.1)
    marks = {event["type"]: event["time"] / 1000 for event in reversed(job.events())}
    marks["step 1"] = job.metrics()["time"][0] / 1000
    marks |= {name.partition(".")[0].partition("-")[0]: _first_time(text) for name, text in job.logs().items()}
    job.cancel()
    while job.describe()["status"] != "CANCELLED":
        time.sleep(0.1)
    time.sleep(5)  # its processes end
    return {mark: marks[mark] - began for mark in MARKS}


def _first_time(log: str) -> float:
    """Of a log's first line."""
    return datetime.strptime(" ".join(log.split()[:2]), "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _script(folder: Path) -> float:
    texts = [f"{a} {b}" for a, b in PAIRS * 2]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder), *texts], check=True, capture_output=True)
    return time.perf_counter() - began


def _report(jobs: list[dict[str, float]], scripts: list[float]) -> str:
    whole = [job["step 1"] for job in jobs]
    lines, before = [], dict.fromkeys(range(len(jobs)), 0.0)
    for mark, meaning in MARKS.items():
        spent = [job[mark] - before[at] for at, job in enumerate(jobs)]
        before = {at: job[mark] for at, job in enumerate(jobs)}
        lines.append(f"| {meaning} | {' | '.join(f'{seconds:.1f}' for seconds in spent)} |")
    return f"""{heading(f"From CREATE to the first step, {BASE}", PACKAGES)}

Seconds a round; the first job of a cluster starts more.

| | {" | ".join(f"job {number}" for number in range(1, len(jobs) + 1))} |
|---|{"---|" * len(jobs)}
{chr(10).join(lines)}
| **CREATE to the first step** | {" | ".join(f"**{seconds:.1f}**" for seconds in whole)} |
| the bare script, in turn | {" | ".join(f"{seconds:.1f}" for seconds in scripts)} |

Over the bare script: **{median(whole) - median(scripts):.1f} s** of the medians.
"""


if __name__ == "__main__":
    main()
