"""ALTER USER ... SET DEFAULT_ROLE, at every door: who may, and what it changes."""

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, KEY
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture
from tests.flow.test_access import sql_error
from tests.flow.test_cli import good

V1 = "/luthier/v1"


def default_of(registry: Registry, user: str = "ANN") -> str | None:
    return registry.users.get(ADMIN, user).default_role


def begins_as(api: TestClient) -> str:
    """The role of a key that names none."""
    role: str = api.post(f"{V1}/keys", json={"user": "ann"}).json()["role"]
    return role


def test_in_sql(api: TestClient, join: Join, registry: Registry) -> None:  # noqa: F811
    join("SALES")
    run_all(api, "CREATE ROLE analyst", "GRANT ROLE analyst TO ROLE sales")
    assert begins_as(api) == "SALES"
    run_all(api, "ALTER USER ann SET DEFAULT_ROLE = analyst")
    assert (default_of(registry), begins_as(api)) == ("ANALYST", "ANALYST")
    assert api.post(f"{V1}/keys", json={"user": "ann", "role": "sales"}).json()["role"] == "SALES"
    assert [row["default_role"] for row in rows(api, "SHOW USERS LIKE 'ann'")] == ["ANALYST"]
    run_all(api, 'alter user "ANN" unset default_role;')
    assert (default_of(registry), begins_as(api)) == (None, "SALES")


def test_by_http(api: TestClient, join: Join, registry: Registry) -> None:  # noqa: F811
    join("SALES")
    assert api.put(f"{V1}/users/ann/default-role", json={"role": "sales"}).json()["default_role"] == "SALES"
    assert default_of(registry) == "SALES"
    assert api.put(f"{V1}/users/ann/default-role", json={"role": None}).json()["default_role"] is None
    assert api.put(f"{V1}/users/ann/default-role", json={}).status_code == 400


def test_by_command_and_python(server: str, api: TestClient, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    join("SALES")
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    run = CliRunner().invoke
    assert good(run(main, ["users", "set", "ann", "--default-role", "sales"])) == "User ANN begins as SALES.\n"
    assert "the first of his roles" in good(run(main, ["users", "set", "ann", "--default-role", ""]))
    assert Client(server, KEY).users.set_default_role("ann", "sales")["default_role"] == "SALES"


def test_one_chooses_among_ones_own(api: TestClient, join: Join, registry: Registry) -> None:  # noqa: F811
    ann, bob = join("SALES"), join("OTHER", user="BOB")
    run_all(api, "CREATE ROLE analyst", "GRANT ROLE analyst TO ROLE sales")
    run_all(ann, "ALTER USER ann SET DEFAULT_ROLE = analyst")
    assert default_of(registry) == "ANALYST"
    unseen = [sql_error(ann, f"ALTER USER ann SET DEFAULT_ROLE = {role}", 404, "not_found") for role in ("other", "no")]
    assert unseen[0].replace("OTHER", "NO") == unseen[1]
    for role in ("OTHER", "SALES"):
        other = sql_error(bob, f"ALTER USER ann SET DEFAULT_ROLE = {role}", 404, "not_found")
        assert other == sql_error(bob, f"ALTER USER nobody SET DEFAULT_ROLE = {role}", 404, "not_found").replace(
            "NOBODY", "ANN"
        )
    assert default_of(registry) == "ANALYST"
    run_all(ann, "ALTER USER ann UNSET DEFAULT_ROLE")
    assert default_of(registry) is None


def test_who_owns_a_user_chooses_among_all_roles(api: TestClient, join: Join, registry: Registry) -> None:  # noqa: F811
    join("SALES")
    boss = join("BOSS", user="BOB")
    run_all(api, "GRANT OWNERSHIP ON USER ann TO ROLE boss", "CREATE ROLE later")
    run_all(boss, "ALTER USER ann SET DEFAULT_ROLE = later")
    assert default_of(registry) == "LATER"
    assert begins_as(api) == "SALES", "she does not have it yet"
    assert "No role NOTHING" in sql_error(boss, "ALTER USER ann SET DEFAULT_ROLE = nothing", 404, "not_found")
