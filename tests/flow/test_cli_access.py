"""luthier accounts | users | roles | grants, and the Python client's methods behind them, over a real socket."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.errors import NotAllowed, NotFound
from tests.factories import KEY
from tests.flow.test_cli import as_json, good, refused

Run = Callable[..., Result]


@pytest.fixture
def run(server: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    return lambda *words: CliRunner().invoke(main, list(words))


def test_an_account_of_its_own(run: Run, server: str) -> None:
    made = as_json(run("accounts", "create", "acme", "--json"))
    assert made["name"] == "acme"
    assert [row["name"] for row in as_json(run("accounts", "list", "--json"))] == ["acme", "main"]
    assert "is there already" in refused(run("accounts", "create", "acme"), 5)
    tenant = Client(server, made["api_key"])
    assert [row["name"] for row in tenant.accounts.list()] == ["acme"]
    with pytest.raises(NotAllowed, match="Only ACCOUNTADMIN of the account that runs the platform"):
        tenant.accounts.create("another")
    with pytest.raises(NotAllowed):
        tenant.models.collect()
    assert tenant.models.list() == []
    told = good(run("accounts", "create", "beta"))
    assert Client(server, told.splitlines()[-1]).call("GET", "/luthier/v1/whoami")["account"] == "beta"


def test_users_roles_and_grants(run: Run) -> None:
    assert "gives him a role" in good(run("users", "create", "ann", "--comment", "new"))
    assert "Role ANALYST." in good(run("roles", "create", "analyst"))
    good(run("roles", "grant", "analyst", "--to-user", "ann"))
    good(run("roles", "create", "boss"))
    good(run("roles", "grant", "analyst", "--to-role", "boss"))
    assert [row["role"] for row in as_json(run("grants", "list", "--to-user", "ann", "--json"))] == ["ANALYST"]
    assert {row["grantee_name"] for row in as_json(run("grants", "list", "--of-role", "analyst", "--json"))} == {
        "ANN",
        "BOSS",
    }
    good(run("grants", "add", "usage,create model", "schema", "public", "--to", "analyst"))
    good(run("grants", "add", "usage", "model", "public", "--to", "analyst", "--scope", "future"))
    assert good(run("grants", "add", "usage", "model", "public", "--to", "analyst", "--scope", "all")).endswith(
        "on 0 objects.\n"
    )
    held = as_json(run("grants", "list", "--to-role", "analyst", "--json"))
    assert [(row["privilege"], row["name"]) for row in held] == [
        ("USAGE", "LUTHIER.PUBLIC"),
        ("CREATE MODEL", "LUTHIER.PUBLIC"),
    ]
    on = as_json(run("grants", "list", "--on", "schema", "public", "--json"))
    assert {row["grantee_name"] for row in on} == {"ACCOUNTADMIN", "ANALYST"}
    assert len(as_json(run("grants", "list", "--future-in", "public", "--json"))) == 1
    good(run("grants", "revoke", "all", "schema", "public", "--from", "analyst"))
    assert good(run("grants", "list", "--to-role", "analyst")) == "No grants.\n"
    good(run("roles", "revoke", "analyst", "--from-user", "ann"))
    assert "ANALYST" in good(run("roles", "list"))
    assert good(run("roles", "drop", "analyst")) == "Dropped role ANALYST.\n"
    assert good(run("users", "drop", "ann")) == "Dropped user ANN.\n"
    assert [row["name"] for row in as_json(run("users", "list", "--json"))] == ["admin"]
    assert "ACCOUNTADMIN" in good(run("grants", "list"))


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("roles", "drop", "nothing"), 3, "No role NOTHING. `luthier roles list` shows those there are."),
        (("users", "drop", "nothing"), 3, "No user NOTHING."),
        (("users", "drop", "admin"), 5, "is you"),
        (("roles", "grant", "public"), 2, "Name one user or one role."),
        (("grants", "add", "fly", "model", "m", "--to", "public"), 2, "There is no privilege 'FLY'"),
        (("grants", "add", "usage", "model", "m", "--to", "public"), 3, "No model LUTHIER.PUBLIC.M."),
        (("grants", "add", "usage", "model", "--to", "public"), 2, "say which MODEL"),
        (("grants", "add", "usage", "base model", "nothing", "--to", "public"), 3, "Unknown base model"),
        (("accounts", "parameters", "--set", "X"), 2, "NAME=VALUE"),
        (("accounts", "parameters", "--set", "X=1"), 2, "There is no parameter X"),
    ],
)
def test_what_is_refused(run: Run, words: tuple[str, ...], status: int, told: str) -> None:
    assert told in refused(run(*words), status)


def test_the_list_of_models(run: Run, server: str) -> None:
    shown = as_json(run("accounts", "parameters", "--set", "CORTEX_MODELS_ALLOWLIST=None", "--json"))
    assert shown == {"CORTEX_MODELS_ALLOWLIST": "None"}
    client = Client(server, KEY)
    with pytest.raises(NotAllowed, match="ALLOWLIST"):
        client.complete("tiny", "a")
    assert client.grants.grant(["USAGE"], "BASE MODEL", "tiny", "accountadmin") == 1
    assert client.complete("tiny", "a")
    assert client.grants.revoke(["USAGE"], "BASE MODEL", "tiny", "accountadmin") == 1
    assert as_json(run("accounts", "parameters", "--unset", "CORTEX_MODELS_ALLOWLIST", "--json")) == {
        "CORTEX_MODELS_ALLOWLIST": "All"
    }
    with pytest.raises(NotFound):
        client.grants.list(to_role="nothing")
