"""A run on an MLflow server: sent from a thread beside the run, which neither waits for it nor ends with it."""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from luthier.platform.frozen import Frozen
from luthier.platform.jobs import Job
from luthier.platform.names import parse_name
from luthier.platform.run_files import RunFiles, StepMetrics, read_metrics
from luthier.platform.settings import Settings
from luthier.platform.tasks import TaskType
from luthier.train.mlflow_model import Tuned, log_model
from luthier.train.trackers import named_metrics

log = logging.getLogger(__name__)

SECONDS, MOST_SECONDS = 5.0, 60.0
"""Between two tries; those of the end become rarer."""
LAST_SECONDS = 15.0
"""How long the end of a run waits for a server that hangs."""
UPLOAD_SECONDS = 900.0
"""The same when the job has succeeded: its weights are on their way, and hold nothing up. It is tried again so long."""
ANSWER_SECONDS, STORED_SECONDS = 10, 300
"""That a server may take for a request, and for one with a file, which it answers once it has stored it."""
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
NUM_STEPS = 100
"""Of one request, which may carry 1000 metrics."""
MAX_LETTERS = 500
"""A parameter may have so many."""
MAX_PART = 50
"""Letters of a part of a registered name, which may have 256 in all."""
JOB_TAG = "luthier.job_id"
UPLOAD_TAG = "luthier.upload"
"""Of a run that succeeded: whether the server has its model."""


class Tracked(Frozen):
    """A job in MLflow's words."""

    job_id: str
    name: str
    experiment: str
    task: TaskType
    params: dict[str, str]
    tags: dict[str, str]
    registered_as: str
    """Empty: it is not."""


def tracked(job: Job, settings: Settings) -> Tracked:
    given = {**job.options.model_dump(mode="json"), "base_model": job.base_model, "rows": job.report["rows"]}
    return Tracked(
        job_id=job.id,
        name=job.model,
        experiment=settings.mlflow_experiment,
        task=job.options.task_type,
        params={name: str(value)[:MAX_LETTERS] for name, value in given.items()},
        tags={JOB_TAG: job.id, "luthier.model": job.model, "luthier.account": job.account, "mlflow.user": job.owner},
        registered_as=_registered(job, settings.mlflow_registry),
    )


def _registered(job: Job, registry: str) -> str:
    """The model's name there, of no other model: the account and all parts, in letters, digits and underscores.

    Parts that lose something by that, or are too long, are told apart by a hash.
    """
    if not registry:
        return ""
    whole = (job.account, *parse_name(job.model, "", "").parts)
    parts = [re.sub(r"\W", "_", part)[:MAX_PART] for part in whole]
    if tuple(parts) != whole:
        parts.append(hashlib.sha256(repr(whole).encode()).hexdigest()[:8])
    return f"{registry}.{'-'.join(parts)}"


class MlflowRun:
    """A context around a run. What ends it without `finish` is a failure.

    The run's folder keeps all metrics: a server that is away gets them when it is back, or never.
    """

    def __init__(self, uri: str, of: Tracked, files: RunFiles) -> None:
        self._uri, self._of, self._files = uri, of, files
        self._made: Tuned | None = None
        self._server: _Server | None = None
        self._deadline = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    def __enter__(self) -> Self:
        if self._uri:
            self._thread.start()
        return self

    def finish(self, made: Tuned) -> None:
        """The run has succeeded, and made this."""
        self._made = made

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        seconds = UPLOAD_SECONDS if self._made else LAST_SECONDS
        self._deadline = time.monotonic() + seconds
        self._ended.set()
        if self._uri:
            self._thread.join(seconds)
            if self._thread.is_alive():
                log.warning("MLflow was not told the end of the run in time")

    def _send_all(self) -> None:
        while not self._ended.wait(SECONDS):
            self._is_done(lambda: self._connected().send(self._files.metrics))
        pause = SECONDS
        while not self._is_done(self._end) and time.monotonic() + pause < self._deadline:
            time.sleep(pause)
            pause = min(2 * pause, MOST_SECONDS)

    def _end(self) -> None:
        server = self._connected()
        server.send(self._files.metrics)
        server.end(self._made)

    def _connected(self) -> "_Server":
        self._server = self._server or _Server(self._uri, self._of)
        return self._server

    def _is_done(self, work: Callable[[], None]) -> bool:
        """What a server that is away did not get is sent again the next time."""
        try:
            work()
        except Exception as error:  # the edge of the thread: stores and their clients have errors of their own
            log.warning("MLflow: %s", _reason(error, self._uri))
            return False
        return True


def _reason(error: Exception, uri: str) -> str:
    """In one line, without the URI, which may hold a password."""
    return " ".join(str(error).replace(uri.rstrip("/"), "the server").split())[:300]


def mark_killed(uri: str, experiment: str, job_id: str) -> None:
    """The end of a run whose supervisor was ended, and cannot tell it."""
    client = _client(uri)
    found = client.get_experiment_by_name(experiment)
    for run in _runs_of(client, found.experiment_id, job_id) if found else ():
        client.set_terminated(run.info.run_id, "KILLED")


def _client(uri: str) -> Any:
    os.environ.setdefault(TIMEOUT, str(ANSWER_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _runs_of(client: Any, experiment_id: str, job_id: str) -> list[Any]:
    runs: list[Any] = client.search_runs([experiment_id], f"tags.`{JOB_TAG}` = '{job_id}'", max_results=1)
    return runs


class _Server:
    """The MLflow run of a job: made once, found again by its tag."""

    def __init__(self, uri: str, of: Tracked) -> None:
        from mlflow.entities import Param

        self._uri, self._client = uri, _client(uri)
        found = self._client.get_experiment_by_name(of.experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(of.experiment)
        runs = _runs_of(self._client, experiment_id, of.job_id)
        run = runs[0] if runs else self._client.create_run(experiment_id, tags=of.tags, run_name=of.name)
        self._id, self._of, self._has_model = run.info.run_id, of, False
        self._step = int(run.data.metrics.get("time/batch", 0))
        self._client.update_run(self._id, status="RUNNING")
        self._client.log_batch(self._id, params=[Param(name, value) for name, value in of.params.items()])

    def send(self, file: Path) -> None:
        """The steps after the last that it has."""
        from mlflow.entities import Metric

        steps = [StepMetrics(**row) for row in read_metrics(file, self._step).to_pylist()]
        for first in range(0, len(steps), NUM_STEPS):
            part = steps[first : first + NUM_STEPS]
            named = [(step, name, value) for step in part for name, value in named_metrics(step, self._of.task).items()]
            metrics = [Metric(name, value, step.time, step.step) for step, name, value in named]
            self._client.log_batch(self._id, metrics=metrics)
            self._step = part[-1].step

    def end(self, made: Tuned | None) -> None:
        """The run ends even without its model, which a tag says; called again, it sends what is missing."""
        try:
            if made:
                self._log(made)
                self._client.set_tag(self._id, UPLOAD_TAG, "complete")
        finally:
            self._client.set_terminated(self._id, "FINISHED" if made else "FAILED")

    def _log(self, made: Tuned) -> None:
        if self._has_model:
            return
        self._client.set_tag(self._id, "luthier.sha256", made.made.sha256)
        self._client.set_tag(self._id, UPLOAD_TAG, "begun")
        try:
            with _time_to_store():
                log_model(self._client, self._id, made, self._of.params, self._of.registered_as)
        except Exception as error:
            self._client.set_tag(self._id, UPLOAD_TAG, f"failed: {_reason(error, self._uri)}")
            raise
        self._has_model = True


@contextmanager
def _time_to_store() -> Iterator[None]:
    """For requests with files; one that was given more time keeps it."""
    known = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(max(STORED_SECONDS, int(known)))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = known
