"""An account that has one of everything, others that try to reach it, and how their answers are compared."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from luthier.platform import privileges
from luthier.platform.privileges import Action, Missing, Rights, missing
from luthier.platform.registry import accounts, guard, model_rows, share_rows
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import Securable
from luthier.platform.store import Store
from tests.factories import ADMIN
from tests.flow.conftest import CHAT, create, upload
from tests.flow.isolation import CHATTED, LINE, V1, WORDS
from tests.flow.people import Join, join, run_all  # noqa: F401 - a fixture

PARTNER = "mysecretpartner"
"""The account that the share is open to."""


@dataclass(frozen=True)
class Names:
    """Of objects, by what stands for them."""

    model: str
    table: str
    view: str
    user: str
    role: str
    place: str
    """A database, with a schema of the same name; and a schema of it in the default database."""
    share: str
    job: str = "ft_00000000-0000-4000-8000-000000000000"
    waiting: str = "ft_00000000-0000-4000-8000-000000000001"
    """A job that has not begun."""
    file_id: str = "file-00000000"
    batch: str = "batch_00000000"
    key: str = "key_0"
    webhook: str = "wh_0"
    rows: str = "/nowhere/rows.parquet"
    """The file of the table."""
    weights: str = "/nowhere/adapter_model.safetensors"

    def all(self) -> dict[str, str]:
        return vars(self)

    def put(self, value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"\{(\w+)\}", lambda found: self.all().get(found[1], found[0]), value)
        if isinstance(value, dict):
            return {key: self.put(each) for key, each in value.items()}
        return [self.put(each) for each in value] if isinstance(value, list) else value

    def path(self, route: str) -> str:
        own = self.user if "/users/" in route else self.role if "/roles/" in route else self.model
        own = self.view if "/views/" in route else own
        own = self.table if "/tables/" in route else self.share if "/shares/" in route else own
        own = self.place if "/databases/" in route or "/schemas/" in route else own
        named = {"name:object": own, "model:path": self.model, "name:path": "tiny", "job_id": self.job}
        named |= {"file_id": self.file_id, "batch_id": self.batch, "file": "training_results.csv", "alias": "a"}
        named |= {"webhook_id": self.webhook}
        named |= {"key_id": self.key, "kind": "completions", "parameter": "CORTEX_MODELS_ALLOWLIST"}
        named |= {"account": "tenant"}
        for key, value in named.items():
            route = route.replace(f"{{{key}}}", value)
        assert "{" not in route, route
        return route

    def taken_out(self, text: str, asked: str) -> str:
        """A text without the names that were asked for: it is the same for the objects of two accounts then."""
        for key, value in sorted(self.all().items(), key=lambda each: -len(each[1])):
            if value.lower() in asked.lower():
                text = re.sub(re.escape(value), f"<{key}>", text, flags=re.IGNORECASE)
        return re.sub("req_[0-9a-f]{32}", "<request>", text)


MISSING = Names("othermodel", "othertable", "otherview", "OTHERUSER", "OTHERROLE", "OTHERPLACE", "OTHERSHARE")
BY_SQL = {
    *(Action.READ_TABLE, Action.READ_VIEW, Action.COUNT_TOKENS),
    *(Action.CALL_FINETUNE, Action.CALL_COMPLETE, Action.CALL_TRY_COMPLETE, Action.CALL_AI_COMPLETE),
}
"""Actions that statements are for."""
ELSEWHERE = {Action.REPLICATE_MODEL, Action.INSPECT_VIEW, Action.CONTINUE_JOB}
"""They take another region, a view that may be read, a right to make models: tests beside this one have them."""


def missing_beside(first: Names) -> Names:
    """Its files would lie where the first's do: a message may cut a long path short, or say how far it was read."""
    return replace(MISSING, rows=f"{first.rows[:-12]}none.parquet", weights=f"{first.weights[:-1]}_")


SECRETS = ("mysecret", "MYSECRET", "training_results", "ANN", ",0.75", " 0.75", ":0.75")
"""None of it may come in an answer; names that were asked for are taken out before."""


def is_named(written: Any) -> bool:
    """Whether it asks for an object of the first by its name."""
    return any(f"{{{each.name}}}" in str(written) for each in fields(Names))


@pytest.fixture(name="first")
def make_first(api: TestClient, train: Callable[[str], Path], registry: Registry, foreign_adapter: Path) -> Names:
    upload(api, "mysecrettable", WORDS)
    job = create(api, model="mysecretmodel", training_data="SELECT * FROM mysecrettable").json()["id"]
    weights = shutil.copytree(foreign_adapter, train(job), dirs_exist_ok=True) / "adapter_model.safetensors"
    second = {"training_data": "SELECT * FROM mysecrettable", "options": {"new_version": True}}
    again = create(api, model="mysecretmodel", **second).json()["id"]
    shutil.copytree(foreign_adapter, train(again), dirs_exist_ok=True)
    running = create(api, model="mysecretnext", training_data="SELECT * FROM mysecrettable")
    assert running.status_code == 201
    file = api.post("/v1/files", data={"purpose": "batch"}, files={"file": ("mysecret.jsonl", LINE)}).json()["id"]
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    batch = api.post("/v1/batches", json=body).json()["id"]
    key = api.post(f"{V1}/keys", json={"name": "mysecretkey"}).json()["id"]
    webhook = api.post(f"{V1}/webhooks", json={"url": "https://93.184.215.14/mysecrethook"}).json()["id"]
    alone = ("MYSECRETUSER", "MYSECRETROLE", "MYSECRETPLACE", "MYSECRETSHARE")
    names = Names("mysecretmodel", "mysecrettable", "mysecretview", *alone)
    _make_others(api, names)
    (table,) = [each for each in registry.tables.show(ADMIN) if "PUBLIC" in each.name]
    made = {"job": job, "waiting": running.json()["id"], "file_id": file, "batch": batch, "key": key}
    return replace(names, **made, webhook=webhook, rows=table.path, weights=str(weights))


def _make_others(api: TestClient, names: Names) -> None:
    """With usage of every kind, and a refusal of who is unknown."""
    assert api.post(CHAT, json=names.put(CHATTED.body)).status_code == 200
    run_all(api, "SELECT SNOWFLAKE.CORTEX.COMPLETE('mysecretmodel', 'a')")
    mistyped = {"Authorization": "Bearer lt_mistyped"}
    assert api.get(f"{V1}/models/mysecretmodel", headers=mistyped).status_code == 401
    assert api.put(f"{V1}/limits", json={"model": "mysecretmodel", "requests": 1000}).status_code == 200
    run_all(api, "CREATE USER mysecretuser", "CREATE ROLE mysecretrole")
    run_all(api, "GRANT ROLE mysecretrole TO USER mysecretuser", "GRANT USAGE ON BASE MODEL tiny TO ROLE mysecretrole")
    place = ("DATABASE luthier", "SCHEMA luthier.public", "MODEL mysecretmodel")
    run_all(api, "CREATE SHARE mysecretshare", *(f"GRANT USAGE ON {each} TO SHARE mysecretshare" for each in place))
    run_all(api, f"ALTER SHARE mysecretshare ADD ACCOUNTS = {PARTNER}")
    run_all(api, "CREATE VIEW mysecretview AS SELECT prompt FROM mysecrettable")
    run_all(api, "CREATE DATABASE mysecretplace", "CREATE SCHEMA mysecretplace.mysecretplace")
    run_all(api, "CREATE SCHEMA mysecretplace")
    run_all(api, "GRANT USAGE ON FUTURE MODELS IN SCHEMA mysecretplace.mysecretplace TO ROLE mysecretrole")
    upload(api, "mysecretplace.mysecretplace.mysecrettable", WORDS)


@pytest.fixture(name="other", params=["another account", "a powerless role"])
def make_other(request: pytest.FixtureRequest, first: Names, join: Join) -> TestClient:  # noqa: F811
    return join("ACCOUNTADMIN", account="tenant") if request.param == "another account" else join("PUBLIC", "NOBODY")


@pytest.fixture(name="asked")
def note_asked(other: TestClient, monkeypatch: pytest.MonkeyPatch) -> set[Action]:
    """Every action that was decided on since all were there."""
    found: set[Action] = set()

    def noted(action: Action, rights: Rights, about: Securable) -> Missing | None:
        found.add(action)
        return missing(action, rights, about)

    for module in (accounts, guard, model_rows, privileges, share_rows):
        monkeypatch.setattr(module, "missing", noted)
    return found


def check(what: str, theirs: tuple[int, str], none: tuple[int, str], first: Names, is_same: bool) -> None:
    """Of an object that is another's the answer is as of one that is not there; `is_same`: a good one too."""
    status, text = theirs
    assert status < 500, f"{what}: {status} {text}"
    for secret in (*SECRETS, *first.all().values()):
        assert secret not in text, f"{what} tells {secret!r}: {text}"
    assert status == none[0], f"{what}: {theirs} and {none}"
    if status >= 400 or is_same:
        assert text == none[1], what


CHANGING = {"audit_heads": None, "keys": "last_used_on"}
"""What moves by itself, of a table or all of it."""


def rows_of(store: Store) -> set[str]:
    """Every row of every account."""
    return {
        f"{name} { ({key: value for key, value in row.items() if key != CHANGING.get(name, '')}) }"
        for name, table in store.tables.tables.items()
        if CHANGING.get(name, "") is not None
        for row in store.rows(sa.select(table))
    }
