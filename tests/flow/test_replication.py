"""A model in two regions: two stores, two roots, two registries; it answers where it is, and nowhere by halves."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from starlette.testclient import TestClient

from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.platform.jobs import now_ms
from luthier.platform.names import parse_name
from luthier.platform.registry.audit import Search
from luthier.platform.registry.model_rows import ModelRows
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.replication import ReplicaRows
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.settings import Region, Settings
from luthier.platform.storage import file_sha256
from luthier.platform.weights.artifacts import MANIFEST
from luthier.serve.api import build_api
from luthier.serve.services import make_services
from tests.factories import ADMIN, BASE_MODEL, KEY, add_admin, make_settings
from tests.fakes import EchoEngine, Launcher, LocalCompletions
from tests.flow.conftest import create, error_of
from tests.flow.people import Join, join, run_all  # noqa: F401 - a fixture
from tests.flow.test_access import ask, ask_body, sql_error
from tests.flow.test_cli import as_json, good, refused
from tests.forging import set_revision

TUNED = parse_name("tuned", "LUTHIER", "PUBLIC")
Publish = Callable[..., None]


@pytest.fixture
def eu_settings(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path, empty_database: Path
) -> Iterator[Settings]:
    """The other region's home and store: SQLite, unless a test asks for PostgreSQL."""
    home = tmp_path / "eu"
    home.mkdir()
    if getattr(request, "param", "sqlite") == "postgresql":
        with request.getfixturevalue("postgres").database() as url:
            yield make_settings(home, tiny_model, region="eu", database_url=url)
        return
    shutil.copy(empty_database, home / "luthier.db")
    yield make_settings(home, tiny_model, region="eu", database_url=f"sqlite:///{home}/luthier.db")


@pytest.fixture
def settings(home: Path, tiny_model: Path, eu_settings: Settings) -> Settings:
    eu = Region(storage=eu_settings.storage, database_url=eu_settings.store_url)
    nowhere = Region(storage=home / "x", database_url=f"sqlite:///{home}/nothing.db")
    return make_settings(home, tiny_model, region="us", regions={"eu": eu, "nowhere": nowhere})


@pytest.fixture
def eu(eu_settings: Settings) -> Iterator[Registry]:
    registry = Registry(eu_settings, Launcher())
    add_admin(registry)
    yield registry
    registry.roles._store.engine.dispose()


@pytest.fixture
def eu_api(eu: Registry, eu_settings: Settings) -> Iterator[TestClient]:
    app = build_api(make_services(eu_settings, eu, LocalCompletions(eu_settings, eu, EchoEngine())))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture
def publish(api: TestClient, faq: str, train: Callable[[str], Path], registry: Registry) -> Publish:
    """A version of `tuned`, whole with its manifest."""

    def run(model: str = "tuned", **options: Any) -> None:
        job = create(api, model=model, options=options).json()["id"]
        folder = train(job)
        (folder / "adapter_model.safetensors").write_bytes(job.encode())
        files = {file.name: file_sha256(file) for file in folder.iterdir()}
        (folder / MANIFEST).write_text(json.dumps({"sha256": files, "trained_tokens": 60}))
        with registry.roles._store.transaction() as tx:
            versions = ModelRows(registry.roles._store).versions
            tx.execute(versions.update().where(versions.c.job_id == job).values(sha256=folder.name))

    return run


def replicate(api: TestClient, region: str = "eu", model: str = "tuned") -> Any:
    return api.post(f"/luthier/v1/models/{model}/replicate", json={"region": region})


def folders(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.storage / "adapters").glob("*"))


@pytest.mark.parametrize("eu_settings", ["sqlite", "postgresql"], indirect=True)
def test_it_answers_there_once_it_is_there(
    api: TestClient,
    eu_api: TestClient,
    eu: Registry,
    eu_settings: Settings,
    registry: Registry,
    publish: Publish,
) -> None:
    publish()
    assert "Unknown model" in error_of(ask(eu_api), 404, "model_not_found")
    cortex = eu_api.post("/api/v2/cortex/inference:complete", json=ask_body("tuned"))
    assert (cortex.status_code, "unknown model" in cortex.text) == (400, True)
    assert "nknown model" in sql_error(eu_api, "SELECT SNOWFLAKE.CORTEX.COMPLETE('tuned', 'a')", 404, "model_not_found")
    done = replicate(api).json()
    assert (done["new"], done["versions"], done["default_version"]) == ([1], [1], 1)
    assert done["copied_bytes"] > 0
    for registered in (registry, eu):
        (row,) = registered.audit.show(ADMIN, Search(action="replicate_model"))
        assert (row.user, row.object_kind, row.object_name, row.source) == ("admin", "model", "tuned", "testclient")
    assert ask(eu_api).status_code == 200
    here, there = api.get("/luthier/v1/models/tuned").json(), eu_api.get("/luthier/v1/models/tuned").json()
    assert (here["sha256"], here["replica_of"]) == (there["sha256"], None)
    assert there["replica_of"] == "us"
    path = Path(eu.models.get(ADMIN, TUNED).path)
    assert path.parent == eu_settings.storage / "adapters"
    assert (path / MANIFEST).is_file()
    assert [row["verb"] for row in eu_api.get("/luthier/v1/models/tuned/history").json()["history"]] == ["REPLICATE"]
    (usage,) = eu_api.get("/luthier/v1/usage/completions").json()["usage"]
    assert usage["model"] == "LUTHIER.PUBLIC.tuned"


def test_again_brings_it_up_to_date(
    api: TestClient, eu_api: TestClient, eu_settings: Settings, publish: Publish
) -> None:
    publish()
    replicate(api)
    before = folders(eu_settings)
    again = replicate(api).json()
    assert (again["new"], again["dropped"], again["copied_bytes"]) == ([], [], 0)
    assert len(eu_api.get("/luthier/v1/models/tuned/history").json()["history"]) == 1
    publish(new_version=True)
    publish(new_version=True)
    run_all(api, "ALTER MODEL tuned VERSION V2 SET ALIAS = prod", "ALTER MODEL tuned SET DEFAULT_VERSION = V3")
    assert eu_api.get("/luthier/v1/models/tuned").json()["version"] == 1
    done = replicate(api).json()
    assert (done["new"], done["default_version"]) == ([2, 3], 3)
    there = eu_api.get("/luthier/v1/models/tuned").json()
    assert (there["version"], there["versions"], there["aliases"]) == (3, 3, {"PROD": 2})
    assert ask(eu_api, "tuned@prod").headers["luthier-model-version"] == "2"
    api.put("/luthier/v1/models/tuned/canary", json={"version": 2, "share": 5.0, "warm": False})
    run_all(api, "ALTER MODEL tuned VERSION prod UNSET ALIAS", "ALTER MODEL tuned DROP VERSION V1")
    assert replicate(api).json()["dropped"] == [1]
    there = eu_api.get("/luthier/v1/models/tuned").json()
    assert (there["versions"], there["aliases"], there["canary_version"]) == (2, {}, 2)
    assert set(before) < set(folders(eu_settings)), "files of what was dropped wait to be collected there"


def test_its_files_are_paid_there_from_then_on(api: TestClient, eu: Registry, publish: Publish) -> None:
    publish()
    before, store = now_ms(), eu.roles._store
    replicate(api)
    (span,) = store.rows(sa.select(store.table("storage_spans")))
    assert (span["account"], span["since"] >= before, span["until"]) == ("main", True, None)
    eu.models.drop(ADMIN, TUNED)
    (span,) = store.rows(sa.select(store.table("storage_spans")))
    assert span["until"] >= span["since"]
    assert span["num_bytes"] > 0


def test_a_region_notices_what_another_has_written(
    api: TestClient, eu_api: TestClient, eu: Registry, publish: Publish
) -> None:
    """Its doors remember names as long as its registry says that nothing changed."""
    publish()
    replicate(api)
    publish(new_version=True)
    assert ask(eu_api).headers["luthier-model-version"] == "1"
    before = eu.versions.epoch()
    eu.replicas.notice()
    noticed = eu.versions.epoch()
    assert noticed != before, "it was made there"
    run_all(api, "ALTER MODEL tuned SET DEFAULT_VERSION = V2")
    for change in ("", "ALTER MODEL tuned VERSION V1 SET ALIAS = prod"):
        run_all(api, *(each for each in (change,) if each))
        replicate(api)
        eu.replicas.notice()
        assert eu.versions.epoch() != noticed
        noticed = eu.versions.epoch()
    replicate(api)
    eu.replicas.notice()
    assert eu.versions.epoch() == noticed, "nothing was new"


def test_it_is_changed_in_its_own_region(api: TestClient, eu_api: TestClient, publish: Publish) -> None:
    publish()
    replicate(api)
    path = "/luthier/v1/models/tuned"
    for answer in (
        eu_api.post(f"{path}/promote", json={"version": 1, "warm": False}),
        eu_api.put(f"{path}/aliases/a", json={"version": 1}),
        create(eu_api, training_data="SELECT 'a' AS prompt, 'b' AS completion", options={"new_version": True}),
        eu_api.post("/luthier/v1/jobs/retune", json={"model": "tuned", "base_model": "tiny"}),
    ):
        assert "change it in region us" in error_of(answer, 409, "conflict")
    assert eu_api.delete(path).status_code == 200
    assert replicate(api).json()["new"] == [1], "and it is there anew"
    run_all(api, "DROP MODEL tuned")
    publish()
    assert (replicate(api).json()["new"], replicate(api).json()["new"]) == ([1], [])


def test_whoever_may_there(
    api: TestClient,
    eu: Registry,
    eu_api: TestClient,
    eu_settings: Settings,
    publish: Publish,
    join: Join,  # noqa: F811
) -> None:
    """Privileges do not go along: to make it there, or to change it, takes what it takes of a model made there."""
    publish()
    ann = join("ANALYST")
    error_of(replicate(ann), 404, "model_not_found")
    for statement in ("DATABASE luthier", "SCHEMA public", "MODEL tuned"):
        run_all(api, f"GRANT USAGE ON {statement} TO ROLE analyst")
    assert "is needed to replicate the model" in error_of(replicate(ann), 403, "not_authorized")
    run_all(api, "GRANT OWNERSHIP ON MODEL tuned TO ROLE analyst")
    _admit(eu, "ANALYST")
    told = error_of(replicate(ann), 403, "not_authorized")
    assert told.startswith("In region eu: USAGE ON DATABASE LUTHIER is needed to create a model there")
    run_all(eu_api, *(f"GRANT USAGE ON {each} TO ROLE analyst" for each in ("DATABASE luthier", "SCHEMA public")))
    assert "CREATE MODEL ON SCHEMA" in error_of(replicate(ann), 403, "not_authorized")
    run_all(eu_api, "GRANT CREATE MODEL ON SCHEMA public TO ROLE analyst")
    assert replicate(ann).status_code == 200
    run_all(eu_api, "REVOKE CREATE MODEL ON SCHEMA public FROM ROLE analyst")
    assert replicate(ann).status_code == 200, "who owns it may change it"
    assert [grant.grantee_name for grant in eu.grants.on(ADMIN, _model())] == ["ANALYST"]
    run_all(eu_api, "GRANT OWNERSHIP ON MODEL tuned TO ROLE public", "REVOKE USAGE ON SCHEMA public FROM ROLE analyst")
    assert "USAGE ON SCHEMA" in error_of(replicate(ann), 403, "not_authorized")
    assert (folders(eu_settings) != [], replicate(api).status_code) == (True, 200)
    run_all(eu_api, "DROP MODEL tuned")
    assert replicate(api).status_code == 200
    assert [grant.grantee_name for grant in eu.grants.on(ADMIN, _model())] == ["ANALYST"], "the admin has each role"


def test_whoever_takes_a_role_there_was_given_it_there(
    api: TestClient,
    eu: Registry,
    eu_settings: Settings,
    publish: Publish,
    join: Join,  # noqa: F811
) -> None:
    """The same name here is no proof: a region's own admin says who its users are, and what they may be."""
    publish()
    ann = join("ACCOUNTADMIN")
    as_public = "GRANT USAGE ON DATABASE luthier TO ROLE public", "GRANT OWNERSHIP ON MODEL tuned TO ROLE public"
    for is_there in (False, True):
        if is_there:
            eu.users.create(ADMIN, "ANN")
        told = error_of(replicate(ann), 403, "not_authorized")
        assert told.startswith("In region eu: user ANN does not have the role ACCOUNTADMIN.")
    assert folders(eu_settings) == []
    _admit(eu, "ACCOUNTADMIN")
    assert replicate(ann).status_code == 200
    run_all(api, *as_public, "GRANT USAGE ON SCHEMA public TO ROLE public")
    told = error_of(replicate(join("PUBLIC", "BOB")), 403, "not_authorized")
    assert told.startswith("In region eu: user BOB does not have the role PUBLIC."), "who is nobody there"


def test_its_schema_is_there_with_it(api: TestClient, eu_api: TestClient, publish: Publish) -> None:
    run_all(api, "CREATE DATABASE sales")
    run_all(api, "CREATE SCHEMA sales.models")
    publish("sales.models.tuned")
    assert replicate(api, model="sales.models.tuned").status_code == 200
    assert ask(eu_api, "sales.models.tuned").status_code == 200
    shown = eu_api.post("/luthier/v1/sql", json={"statement": "SHOW SCHEMAS IN DATABASE sales"}).json()
    assert "MODELS" in {row[shown["columns"].index("name")] for row in shown["rows"]}


def test_what_was_trained_elsewhere_is_no_difference_there(
    api: TestClient, eu_api: TestClient, publish: Publish
) -> None:
    publish()
    assert replicate(api).status_code == 200
    checks = eu_api.get("/luthier/v1/ledger/reconcile").json()["checks"]
    assert [check for check in checks if check["check"] == "manifests"] == []
    here = api.get("/luthier/v1/ledger/reconcile").json()["checks"]
    assert "manifests" in {check["check"] for check in here}


def test_it_is_refused_where_it_could_not_answer(
    api: TestClient, eu: Registry, eu_settings: Settings, publish: Publish, home: Path
) -> None:
    publish()
    error_of(replicate(api, "us"), 400, "invalid_parameter_value")
    assert error_of(replicate(api, "mars"), 404, "not_found").endswith("names: eu, nowhere.")
    assert "Start Luthier there first" in error_of(replicate(api, "nowhere"), 409, "conflict")
    assert not (home / "nothing.db").exists()
    Registry(eu_settings.model_copy(update={"serve_base_models": ()}), Launcher())
    assert "is not served in region eu" in error_of(replicate(api), 409, "conflict")
    Registry(eu_settings.model_copy(update={"region": "asia"}), Launcher())
    assert "is that of asia" in error_of(replicate(api), 409, "conflict")
    file = eu_settings.home / "base_models" / "tiny.toml"
    file.write_text(file.read_text().replace('revision = "0"', 'revision = "1"'))
    Registry(eu_settings, Launcher())
    assert "has revision 1 of it" in error_of(replicate(api), 409, "conflict")
    file.write_text(BASE_MODEL.format(path="x").replace('"tiny"', '"other"'))
    Registry(eu_settings.model_copy(update={"serve_base_models": ()}), Launcher())
    assert "has none of that name" in error_of(replicate(api), 409, "conflict")
    set_revision(eu.roles._store, "0009")
    assert "is at revision 0009" in error_of(replicate(api), 409, "conflict")
    assert folders(eu_settings) == []


def test_a_name_that_is_taken_there_is_refused(
    api: TestClient,
    eu_api: TestClient,
    eu: Registry,
    publish: Publish,
    join: Join,  # noqa: F811
) -> None:
    publish()
    made = create(eu_api, training_data="SELECT 'a' AS prompt, 'b' AS completion")
    assert made.status_code == 201
    assert "of its own, or makes one" in error_of(replicate(api), 409, "conflict")
    tenant = join("ACCOUNTADMIN", account="tenant")
    assert "has no account main" not in error_of(replicate(tenant), 404, "model_not_found")


def test_nothing_is_there_by_halves(
    api: TestClient, eu_api: TestClient, eu_settings: Settings, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    publish(new_version=True)

    def fail(*_given: object) -> None:
        raise RuntimeError("killed between two writes")

    with monkeypatch.context() as broken:
        broken.setattr(ReplicaRows, "_point", fail)
        with pytest.raises(RuntimeError):
            replicate(api)
    assert len(folders(eu_settings)) == 2, "files come first"
    assert eu_api.get("/luthier/v1/models").json() == {"models": []}
    assert replicate(api).json()["copied_bytes"] == 0
    assert ask(eu_api).status_code == 200


def test_damaged_files_are_not_copied_and_mended_there(
    api: TestClient, eu_api: TestClient, settings: Settings, eu_settings: Settings, publish: Publish
) -> None:
    publish()
    (name,) = folders(settings)
    weights = settings.storage / "adapters" / name / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"x")
    assert "not what was published" in error_of(replicate(api), 409, "conflict")
    assert (folders(eu_settings), eu_api.get("/luthier/v1/models").json()) == ([], {"models": []})
    weights.write_bytes(whole)
    replicate(api)
    there = eu_settings.storage / "adapters" / name / "adapter_model.safetensors"
    there.write_bytes(b"x")
    assert replicate(api).json()["copied_bytes"] > 0
    assert there.read_bytes() == whole


def test_by_the_command_line(eu: Registry, publish: Publish, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["models", "replicate", "tuned", "--to", *words])

    assert "new there: 1." in good(run("eu"))
    assert "nothing is new there." in good(run("eu"))
    assert as_json(run("eu", "--json"))["versions"] == [1]
    assert "No region mars" in refused(run("mars"), 3)
    assert Client(server, KEY).models.replicate("tuned", "eu")["new"] == []


def _admit(eu: Registry, role: str) -> None:
    """As a user of that region, with a role."""
    eu.users.create(ADMIN, "ANN")
    if role != ADMIN.role:
        eu.roles.create(ADMIN, role)
    eu.roles.grant(ADMIN, role, Securable(ObjectKind.USER, name="ANN"))


def _model() -> Any:
    return Securable.named(ObjectKind.MODEL, TUNED)
