"""The Python client: the native API and OpenAI's routes over HTTP; error bodies come back as the errors they were."""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from luthier.cli.access_objects import Accounts, Grants, Roles, Users
from luthier.cli.batch_objects import Batches, Files
from luthier.cli.credit_objects import Credits, Limits
from luthier.cli.database_objects import Places
from luthier.cli.objects import Models, Tables
from luthier.cli.profile import load_profile
from luthier.cli.remote import Remote, Row, Rows, given, path_of
from luthier.cli.security import Audit, Keys
from luthier.cli.share_objects import Shares
from luthier.cli.view_objects import Views
from luthier.cli.webhook_objects import Webhooks
from luthier.errors import InvalidInput, LuthierError, NotAuthenticated, TrainingFailed, Unavailable, all_errors
from luthier.platform.jobs import JobStatus
from luthier.platform.settings import load_settings

if TYPE_CHECKING:
    import pyarrow as pa
    from httpx_sse import ServerSentEvent

ARROW_STREAM = "application/vnd.apache.arrow.stream"
POLL_SECONDS = 0.5
RESTART_SECONDS = 300.0
"""How long a watcher waits for a server that went away."""
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
STREAM_TIMEOUT = httpx.Timeout(45.0, connect=5.0)
"""A stream of events is never silent for longer than 15 seconds."""


class Client:
    """Talks to one server. Without arguments: LUTHIER_URL and LUTHIER_API_KEY, else the local profile."""

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        profile = load_profile(load_settings())
        url = url or os.environ.get("LUTHIER_URL") or (profile.url if profile else None)
        api_key = api_key or os.environ.get("LUTHIER_API_KEY") or (profile.api_key if profile else None)
        if not url or not api_key:
            raise NotAuthenticated("No server or key known. Run `luthier up`, or set LUTHIER_URL and LUTHIER_API_KEY.")
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {api_key}"}, timeout=TIMEOUT)
        self.finetune = Finetune(self)
        self.tables, self.views = Tables(self), Views(self)
        self.databases, self.schemas = Places(self, "databases"), Places(self, "schemas")
        self.models = Models(self)
        self.files = Files(self)
        self.batches = Batches(self)
        self.credits = Credits(self)
        self.limits = Limits(self)
        self.webhooks = Webhooks(self)
        self.accounts, self.users = Accounts(self), Users(self, "users")
        self.roles, self.grants = Roles(self, "roles"), Grants(self)
        self.shares = Shares(self)
        self.keys = Keys(self)
        self.audit = Audit(self)

    def complete(
        self,
        model: str,
        prompt: str | Sequence[Mapping[str, str]],
        options: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> Any:
        """The answer's text; with `options` (temperature, top_p, max_tokens, ...) COMPLETE's documented object."""
        answer = self.call("POST", "/v1/chat/completions", json=_chat_body(model, prompt, options, system))
        text = answer["choices"][0]["message"]["content"]
        if options is None:
            return text
        kept = {key: answer[key] for key in ("created", "model", "usage")}
        return {"choices": [{"messages": text}], **kept}

    def stream(
        self,
        model: str,
        prompt: str | Sequence[Mapping[str, str]],
        options: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> Iterator[str]:
        """The answer's text in pieces, as they are generated."""
        body = {**_chat_body(model, prompt, options, system), "stream": True}
        with self._streamed("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield _piece(json.loads(line.removeprefix("data: ")))

    def sql(self, statement: str) -> "pa.Table":
        """One statement of SQL; the result as an Arrow table."""
        import pyarrow as pa

        response = self._send("POST", path_of("sql"), json={"statement": statement}, headers={"Accept": ARROW_STREAM})
        return pa.ipc.open_stream(response.content).read_all()

    def usage(
        self, kind: str, since: int | None = None, until: int | None = None, group_by: Sequence[str] = ()
    ) -> Rows:
        """`kind`: finetuning, completions, storage or credits; times in epoch milliseconds; sums when grouped."""
        params = given(since=since, until=until, group_by=list(group_by) or None)
        return self.pages(path_of("usage", kind), "usage", **params)

    def statement(self, since: int | None = None, until: int | None = None, format: str = "csv") -> Iterator[bytes]:
        """The account's ledger in pieces, as `csv` or as `cloudevents` in JSON lines; times in epoch milliseconds."""
        params = given(since=since, until=until, format=format)
        with self._streamed("GET", path_of("statement"), params=params) as response:
            yield from response.iter_bytes()

    def reconcile(self) -> dict[str, Any]:
        """The ledger against what was counted elsewhere: is_equal, checks, notes."""
        return self.call("GET", path_of("ledger", "reconcile"))

    def base_models(self, include_retired: bool = False) -> Rows:
        """The catalog: what can be tuned and served, and what the server has of it."""
        return self.pages(path_of("base-models"), "base_models", all=include_retired)

    def base_model(self, name: str) -> dict[str, Any]:
        """One row in full, by its name, an alias or its Hugging Face name."""
        return self.call("GET", path_of("base-models", name))

    def call(self, method: str, path: str, **kwargs: Any) -> Row:
        """One request; the object that it is answered, or the error that it stands for."""
        answer: Row = self._send(method, path, **kwargs).json()
        return answer

    def pages(self, path: str, name: str, /, **params: Any) -> Rows:
        """All rows of a list that comes in pages."""
        rows: Rows = []
        while True:
            page = self.call("GET", path, params=params)
            rows += page[name]
            if "next" not in page:
                return rows
            params = {**params, "after": page["next"]}

    def download(self, path: str, file: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """`on_bytes` is told how many there are, as they come."""
        with self._streamed("GET", path) as response, file.open("wb") as out:
            for part in response.iter_bytes():
                out.write(part)
                if on_bytes:
                    on_bytes(out.tell())

    def messages(self, path: str, params: Mapping[str, Any]) -> Iterator["ServerSentEvent"]:
        """Server-sent events, until the server ends them. A keep-alive comes out of the library as one without data."""
        from httpx_sse import EventSource

        accept = {"Accept": "text/event-stream"}
        with self._streamed("GET", path, params=params, headers=accept, timeout=STREAM_TIMEOUT) as response:
            yield from (message for message in EventSource(response).iter_sse() if message.data)

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        with self._streamed(method, path, **kwargs) as response:
            response.read()
        return response

    @contextmanager
    def _streamed(self, method: str, path: str, **kwargs: Any) -> Iterator[httpx.Response]:
        """An answer whose body is still to be read, or the error that it stands for."""
        try:
            with self._http.stream(method, path, **kwargs) as response:
                if response.is_error:
                    response.read()
                    raise _to_error(response)
                yield response
        except httpx.TransportError as error:
            raise Unavailable(f"No answer from {self.url} ({error}). Is it up? `luthier status` tells.") from error


class Finetune(Remote):
    """FINETUNE, as methods."""

    def create(
        self,
        name: str,
        base_model: str,
        training_data: str,
        validation_data: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> "FinetuneJob":
        """Starts a job. Data is a SELECT with the columns of its task, or the path of a file or folder with them."""
        body = self._body(name, base_model, training_data, validation_data, options)
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        job = self._client.call("POST", path_of("jobs"), json=body, headers=headers)
        return FinetuneJob(self._client, job["id"])

    def dry_run(
        self,
        name: str,
        base_model: str,
        training_data: str,
        validation_data: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Rows, tokens and credits of what `create` would start; starts nothing."""
        body = self._body(name, base_model, training_data, validation_data, options)
        return self._client.call("POST", path_of("jobs"), json=body, params={"dry_run": True})

    def retune(self, model: str, base_model: str, promote: bool = False) -> "FinetuneJob":
        """Trains a model again on another base model, from the data that it was made of: its next version."""
        body = {"model": model, "base_model": base_model, "promote": promote}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        job = self._client.call("POST", path_of("jobs", "retune"), json=body, headers=headers)
        return FinetuneJob(self._client, job["id"])

    def dry_retune(self, model: str, base_model: str) -> dict[str, Any]:
        """Rows, tokens and credits of what `retune` would start; starts nothing."""
        body = {"model": model, "base_model": base_model}
        return self._client.call("POST", path_of("jobs", "retune"), json=body, params={"dry_run": True})

    def show(self, limit: int = 1000, before: str | None = None) -> Rows:
        """Newest first, 1000 at the most; those older than the job `before`."""
        answer = self._client.call("GET", path_of("jobs"), params=given(limit=limit, before=before))
        jobs: Rows = answer["jobs"]
        return jobs

    def job(self, job_id: str) -> "FinetuneJob":
        return FinetuneJob(self._client, job_id)

    def _body(
        self, name: str, base_model: str, training: str, validation: str | None, options: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return {
            "model": name,
            "base_model": base_model,
            "training_data": self._client.tables.as_query(training),
            "validation_data": validation and self._client.tables.as_query(validation),
            "options": dict(options or {}),
        }


class FinetuneJob:
    """A job by its id."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client, self.id = client, job_id

    def __repr__(self) -> str:
        return f"FinetuneJob({self.id!r})"

    def describe(self) -> dict[str, Any]:
        return self._client.call("GET", path_of("jobs", self.id))

    def events(self) -> Rows:
        return self._client.pages(path_of("jobs", self.id, "events"), "events")

    def metrics(self, since_step: int = 0, points: int | None = None) -> dict[str, list[Any]]:
        """Columns with a value for each step after `since_step`; with `points` about so many, evenly spread."""
        params = given(since_step=since_step, points=points)
        answer = self._client.call("GET", path_of("jobs", self.id, "metrics"), params=params)
        metrics: dict[str, list[Any]] = answer["metrics"]
        return metrics

    def answers(self) -> Rows:
        """To the eval_prompts, at each checkpoint so far: step, prompt, answer."""
        return self._client.pages(path_of("jobs", self.id, "answers"), "answers")

    def logs(self) -> dict[str, str]:
        """The end of what each of the run's processes has logged, by the file's name."""
        logs: dict[str, str] = self._client.call("GET", path_of("jobs", self.id, "logs"))["logs"]
        return logs

    def cancel(self) -> dict[str, Any]:
        return self._client.call("POST", path_of("jobs", self.id, "cancel"))

    def watch(self) -> Iterator[dict[str, Any]]:
        """Descriptions, one at each change, until the job has ended; a server that restarts is waited for."""
        described: dict[str, Any] = {}
        for kind, news in self.follow():
            if kind == "progress":
                is_final = JobStatus(news["status"]).is_final
                described = self.described() if is_final or not described else {**described, **news}
                yield described

    def follow(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each new `event`, and `progress` at each change, as they happen; a server that restarts is waited for.

        The last one is the progress of a job that has ended.
        """
        patience, last_id = _Patience(), "0"
        while True:
            try:
                for message in self._client.messages(path_of("jobs", self.id, "events"), {"after": last_id}):
                    patience, last_id = _Patience(), message.id or last_id
                    news = message.json()
                    yield message.event, news
                    if message.event == "progress" and JobStatus(news["status"]).is_final:
                        return
            except Unavailable as error:
                patience.bear(error)
            time.sleep(POLL_SECONDS)

    def described(self) -> dict[str, Any]:
        """As `describe`, but a server that restarts is waited for."""
        patience = _Patience()
        while True:
            try:
                return self.describe()
            except Unavailable as error:
                patience.bear(error)
            time.sleep(POLL_SECONDS)

    def wait(self) -> dict[str, Any]:
        """The description of the job that succeeded; TrainingFailed otherwise."""
        *_, job = self.watch()
        if job["status"] != JobStatus.SUCCESS:
            reason = job["error"]["message"] if "error" in job else "it was cancelled"
            raise TrainingFailed(f"Job {self.id} ended as {job['status']}: {reason}")
        return job


class _Patience:
    """With a server that is away: it ends so long after the first failure."""

    def __init__(self) -> None:
        self._since: float | None = None

    def bear(self, error: Unavailable) -> None:
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > RESTART_SECONDS:
            raise error


def _chat_body(
    model: str, prompt: str | Sequence[Mapping[str, str]], options: Mapping[str, Any] | None, system: str | None
) -> dict[str, Any]:
    """Greedy unless asked otherwise, as COMPLETE is."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    head = [{"role": "system", "content": system}] if system else []
    return {"model": model, "messages": [*head, *turns], "temperature": 0.0, **(options or {})}


def _piece(event: dict[str, Any]) -> str:
    if error := event.get("error"):
        raise all_errors().get(error["code"], LuthierError)(error["message"])
    return "".join(choice["delta"].get("content", "") for choice in event["choices"])


def _to_error(response: httpx.Response) -> LuthierError:
    try:
        error = response.json()["error"]
        unknown = InvalidInput if response.status_code == 400 else LuthierError  # OpenAI has many codes for a bad value
        return all_errors().get(error["code"], unknown)(error["message"])
    except (ValueError, KeyError, TypeError):
        # Not an answer of ours: a proxy in between, or Serve before the gateway is up.
        return Unavailable(f"HTTP {response.status_code} from {response.url.path}: {response.text[:200].strip()}")
