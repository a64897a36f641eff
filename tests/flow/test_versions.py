"""Versions of a model through the app: made, promoted, drawn, warmed, rolled back."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import luthier
from luthier.platform.registry.registry import Registry
from luthier.platform.versions import parse_model
from luthier.serve import resolver
from tests.factories import ADMIN, KEY
from tests.fakes import LocalCompletions
from tests.flow.conftest import create, error_of
from tests.flow.test_cli import Run, as_json, good, refused, run  # noqa: F401 - a fixture

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "a b"}]}
TUNED = "/luthier/v1/models/tuned"


@pytest.fixture
def two(api: TestClient, tuned: str, train: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """A model with two versions; nothing that was resolved is remembered."""
    train(create(api, options={"new_version": True}).json()["id"])
    monkeypatch.setattr(resolver.Resolver, "resolve", _fresh(resolver.Resolver.resolve))
    return tuned


def _fresh(resolve: Callable[..., Any]) -> Callable[..., Any]:
    async def resolved(self: resolver.Resolver, *about: Any) -> Any:
        self._tuned._known.clear()
        return await resolve(self, *about)

    return resolved


def answering(api: TestClient, model: str, stream: bool = False) -> str | None:
    response = api.post(CHAT, json={**ASKED, "model": model, "stream": stream})
    assert response.status_code == 200, response.text
    return response.headers.get("luthier-model-version")


def test_the_version_that_answers_is_told(api: TestClient, two: str) -> None:
    asked = (two, f"{two}@1", f"{two}@v2", f"{two}@last", "LUTHIER.PUBLIC.TUNED@2", "tiny")
    assert [answering(api, model) for model in asked] == ["1", "1", "2", "2", "2", None]
    assert answering(api, f"{two}@2", stream=True) == "2"
    records = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert [record["version"] for record in records] == [1, 1, 2, 2, 2, None, 2]
    sums = api.get("/luthier/v1/usage/completions", params={"group_by": ["model", "version"]}).json()["usage"]
    assert [(row["model"], row["version"], row["records"]) for row in sums] == [
        ("LUTHIER.PUBLIC.tuned", 1, 2),
        ("LUTHIER.PUBLIC.tuned", 2, 4),
        ("tiny", None, 1),
    ]
    message = error_of(api.post(CHAT, json={**ASKED, "model": f"{two}@7"}), 404, "model_not_found")
    assert "has no version 7. It has 1, 2." in message


def test_promotion_warms_first(api: TestClient, two: str, completions: LocalCompletions) -> None:
    message = error_of(api.post(f"{TUNED}@1/promote", json={"version": 2}), 400, "invalid_parameter_value")
    assert "has '@' in it" in message
    assert api.post(f"{TUNED}/promote", json={"version": "V2"}).json()["default_version"] == 2
    assert (completions.warmed, answering(api, two)) == ([2], "2")
    assert api.post(f"{TUNED}/rollback", json={"leaving": 2}).json()["default_version"] == 1
    assert api.post(f"{TUNED}/rollback", json={"leaving": 2}).json()["default_version"] == 1
    assert (completions.warmed, answering(api, two)) == ([2, 1], "1")
    assert "no earlier default" in error_of(api.post(f"{TUNED}/rollback"), 409, "conflict")
    assert api.post("/luthier/v1/models/tuned@2/warm").json()["version"] == 2


def test_what_no_engine_can_load_is_not_promoted(
    api: TestClient, two: str, completions: LocalCompletions, registry: Registry
) -> None:
    completions.broken.add(registry.models.get(ADMIN, *parse_model("tuned@2", "LUTHIER", "PUBLIC")).number)
    for verb, path in ((api.post, "promote"), (api.put, "canary")):
        asked = {"version": "2", "share": 5} if path == "canary" else {"version": "2"}
        assert "missing in storage" in error_of(verb(f"{TUNED}/{path}", json=asked), 503, "unavailable")
    assert answering(api, two) == "1"
    assert api.post(f"{TUNED}/promote", json={"version": "2", "warm": False}).json()["default_version"] == 2


def test_a_canary_answers_its_share(api: TestClient, two: str) -> None:
    assert api.put(f"{TUNED}/canary", json={"version": "2", "share": 40}).json()["canary_share"] == 40
    seen = Counter(answering(api, two) for _ in range(60))
    assert set(seen) == {"1", "2"}
    assert answering(api, f"{two}@1") == "1"
    assert [row["share"] for row in api.get(f"{TUNED}/versions").json()["versions"]] == [60.0, 40.0]
    assert api.delete(f"{TUNED}/canary").json()["canary_version"] is None
    assert answering(api, two) == "1"
    message = error_of(api.put(f"{TUNED}/canary", json={"version": "2", "share": 100}), 400, "invalid_parameter_value")
    assert "less than 100 percent" in message


def test_aliases(api: TestClient, two: str) -> None:
    assert api.put(f"{TUNED}/aliases/prod", json={"version": 2}).json()["aliases"] == {"PROD": 2}
    assert answering(api, f"{two}@Prod") == "2"
    assert "is taken" in error_of(api.put(f"{TUNED}/aliases/v1", json={"version": "2"}), 400, "invalid_parameter_value")
    assert api.delete(f"{TUNED}/aliases/prod").json()["aliases"] == {}
    error_of(api.post(CHAT, json={**ASKED, "model": f"{two}@prod"}), 404, "model_not_found")


def test_a_job_goes_on_from_a_version(api: TestClient, two: str, train: Callable[[str], Path]) -> None:
    refusal = create(api, options={"new_version": True, "continue_from": f"{two}@9"})
    assert "has no version 9" in error_of(refusal, 404, "not_found")
    message = error_of(create(api, options={"promote": True}), 400, "invalid_parameter_value")
    assert "promote is for new_version" in message


def test_the_client(server: str, two: str) -> None:
    models = luthier.Client(server, KEY).models
    assert [row["version"] for row in models.versions(two)] == [1, 2]
    assert models.promote(two, 2)["default_version"] == 2
    assert models.rollback(two)["default_version"] == 1
    assert models.alias(two, "prod", 2)["aliases"] == {"PROD": 2}
    assert models.drop_alias(two, "prod")["aliases"] == {}
    assert models.canary(two, 2, 12.5)["canary_share"] == 12.5
    assert models.end_canary(two)["canary_version"] is None
    assert models.warm(f"{two}@2")["version"] == 2
    assert [each["verb"] for each in models.history(two)][:3] == ["CREATE_VERSION", "CREATE_VERSION", "PROMOTE"]
    assert models.drop(f"{two}@2")["version"] == 2
    assert models.get(two)["versions"] == 1


def test_the_command_line(run: Run, two: str) -> None:  # noqa: F811
    assert good(run("models", "promote", two, "2")) == "Model LUTHIER.PUBLIC.tuned: version 2 is the default.\n"
    assert "version 1 is the default" in good(run("models", "rollback", two))
    assert "aliases PROD=2" in good(run("models", "alias", two, "prod", "2"))
    assert "canary 2 (5%)" in good(run("models", "canary", two, "2", "5%"))
    assert "2 (5%)" in good(run("models", "list"))
    shown = good(run("models", "show", two))
    assert all(words in shown for words in ("95%", "5%", "PROD", "0.75"))
    assert len(as_json(run("models", "show", f"{two}@2", "--json"))["all_versions"]) == 2
    assert as_json(run("models", "canary", two, "--off", "--json"))["canary_version"] is None
    assert "is the default" in good(run("models", "alias", two, "prod", "--remove"))
    assert good(run("models", "warm", f"{two}@2")) == "Version 2 of LUTHIER.PUBLIC.tuned is loaded.\n"
    assert "SET_CANARY" in good(run("models", "history", two))
    assert [row["version"] for row in as_json(run("models", "versions", two, "--json"))] == [1, 2]
    for words in (("canary", two), ("canary", two, "2"), ("canary", two, "2", "x%"), ("alias", two, "prod")):
        refused(run("models", *words), 2)


def rows(api: TestClient, statement: str) -> list[dict[str, Any]]:
    answer = api.post("/luthier/v1/sql", json={"statement": statement})
    assert answer.status_code == 200, answer.text
    return [dict(zip(answer.json()["columns"], row, strict=True)) for row in answer.json()["rows"]]


def test_snowflakes_statements(api: TestClient, two: str) -> None:
    rows(api, "ALTER MODEL tuned SET DEFAULT_VERSION = 'V2';")
    rows(api, 'alter model LUTHIER."PUBLIC".tuned\n version first set alias = prod')
    (model,) = rows(api, " show models ;")
    assert (model["name"], model["model_type"], model["default_version_name"]) == ("TUNED", "CORTEX_FINETUNED", "V2")
    assert (model["versions"], model["aliases"]) == ('["V1", "V2"]', '{"PROD": "V1"}')
    versions = rows(api, "SHOW VERSIONS IN MODEL tuned")
    told = [(each["name"], each["aliases"], each["is_default_version"]) for each in versions]
    assert told == [("V1", '["PROD"]', False), ("V2", "[]", True)]
    rows(api, "ALTER MODEL tuned VERSION prod UNSET ALIAS")
    rows(api, "ALTER MODEL tuned DROP VERSION V1")
    assert [each["name"] for each in rows(api, "SHOW VERSIONS IN MODEL tuned")] == ["V2"]
    assert rows(api, "DROP MODEL tuned") == [{"status": "TUNED successfully dropped."}]
    assert rows(api, "SHOW MODELS") == []


@pytest.mark.parametrize(
    "statement",
    ["SHOW MODELS; DROP MODEL tuned", "SHOW TABLES", "ALTER MODEL tuned SET COMMENT = 'x'", "DROP MODEL a.b.c.d"],
)
def test_statements_that_are_none_of_them(api: TestClient, two: str, statement: str) -> None:
    error_of(api.post("/luthier/v1/sql", json={"statement": statement}), 422, "sql_compilation_error")
    assert len(api.get("/luthier/v1/models").json()["models"]) == 1
