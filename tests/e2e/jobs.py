"""Jobs on the live cluster: how the tests start them, and what must hold of each that ended well."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from luthier.cli.client import FinetuneJob
from tests.e2e.live import BASE, JOB_SECONDS, LiveCluster, until

Answers = dict[str, str]

FIRST: Answers = {"the fox": "quick", "the dog": "lazy", "question 7": "brown", "the answer": "jumps"}
SECOND: Answers = {"the fox": "what", "the dog": "over", "question 7": "user", "the answer": "system"}
REPEATS = 10
MEMORISE = {"max_epochs": 10, "batch_size": 8, "learning_rate": 0.01}
LONG = {"max_epochs": 10, "batch_size": 4, "learning_rate": 0.001, "num_workers": 2}
"""57 steps an epoch on `long_table`, with a checkpoint every 50 steps: seconds at least, and room for three deaths."""
LONG_ROWS = 240
WILD = {"continue_from": "first", "max_epochs": 10, "batch_size": 4, "learning_rate": 0.1, "warmup_share": 0.5}
"""Of a model with a low loss, which explodes as the rate rises: near step 20 of 100."""


def write_csv(file: Path, answers: Answers, repeats: int = REPEATS) -> Path:
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["question", "reply"])
        writer.writerows(list(answers.items()) * repeats)
    return file


def table_of(cluster: LiveCluster, name: str, folder: Path, answers: Answers = FIRST, repeats: int = REPEATS) -> str:
    """A table from a CSV file, and the SELECT that trains on it."""
    if not any(table["name"].endswith(f".{name}") for table in cluster.client.tables.list()):
        cluster.client.tables.create(name, write_csv(folder / f"{name}.csv", answers, repeats))
    return f"SELECT question AS prompt, reply AS completion FROM {name}"


def create_long(cluster: LiveCluster, model: str, folder: Path) -> FinetuneJob:
    """Undisturbed, each becomes the same model."""
    query = table_of(cluster, "long_table", folder, repeats=LONG_ROWS // len(FIRST))
    return cluster.client.finetune.create(model, BASE, query, options=LONG)


def start_long(cluster: LiveCluster, model: str, folder: Path) -> FinetuneJob:
    """A job that runs and has left its first checkpoint behind."""
    job = create_long(cluster, model, folder)
    runs = cluster.home / "storage" / "runs" / job.id
    until(lambda: list(runs.glob("step-*/trainer.pt")) and step_of(job) > 50, JOB_SECONDS, "a first checkpoint")
    return job


def step_of(job: FinetuneJob) -> int:
    return int(job.describe()["progress_details"]["step"])


def ended(job: FinetuneJob) -> dict[str, Any]:
    """The description of a job that has ended; fails when it does not in time."""

    def final() -> dict[str, Any] | None:
        described = job.describe()
        return described if described.get("finished_on") else None

    return until(final, JOB_SECONDS, f"the end of job {job.id}")


def check_success(cluster: LiveCluster, job: FinetuneJob, folder: Path) -> dict[str, Any]:
    """SUCCESS, billed once for what its report said, each step in the results once; gives the description."""
    described = ended(job)
    assert described["status"] == "SUCCESS", (described, job.events())
    promised = described["report"]["trained_tokens"]
    assert described["trained_tokens"] == promised
    bill = bill_of(cluster, job)
    assert (bill["trained_tokens"], bill["credits"]) == (promised, described["report"]["credits"])
    steps = [int(row["step"]) for row in results(cluster, described["model"], folder)]
    assert steps == list(range(1, described["progress_details"]["total_steps"] + 1))
    return described


def bill_of(cluster: LiveCluster, job: FinetuneJob) -> dict[str, Any]:
    """The job's one record in the ledger."""
    (bill,) = [record for record in cluster.client.usage("finetuning") if record["source_id"] == job.id]
    return bill


def results(cluster: LiveCluster, model: str, folder: Path) -> list[dict[str, str]]:
    cluster.client.models.export(model, folder / "exported")
    with (folder / "exported" / "training_results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_same_adapter(folder: Path, other: Path) -> None:
    """Of two models that were exported there, up to rounding."""
    weights, expected = (load_file(each / "exported" / "adapter_model.safetensors") for each in (folder, other))
    assert set(weights) == set(expected)
    for name, tensor in weights.items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-4, err_msg=name)
