"""luthier shares, and the Python client's methods behind it, over a real socket."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.errors import NotFound
from tests.factories import KEY
from tests.flow.test_cli import as_json, good, refused

Run = Callable[..., Result]


@pytest.fixture
def run(server: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """By the key of an account's admin."""

    def of(key: str, *words: str) -> Result:
        monkeypatch.setenv("LUTHIER_URL", server)
        monkeypatch.setenv("LUTHIER_API_KEY", key)
        return CliRunner().invoke(main, list(words))

    return of


@pytest.mark.usefixtures("tuned")
def test_a_share_from_its_making_to_its_end(run: Run, server: str) -> None:
    def own(*words: str) -> Result:
        return run(KEY, "shares", *words)

    key = Client(server, KEY).accounts.create("acme")["api_key"]
    assert good(own("list")) == "No shares. `luthier shares create` makes one.\n"
    assert "comes next" in good(own("create", "partners", "--comment", "x"))
    assert good(own("show", "partners")) == "It gives nothing yet.\n"
    assert "is open to nobody" in good(own("accounts", "partners"))
    assert "`GRANT USAGE ON DATABASE LUTHIER TO SHARE" in refused(own("grant", "partners", "model", "tuned"), 5)
    for kind, name in (("database", "luthier"), ("schema", "public")):
        good(own("grant", "partners", kind, name))
    assert as_json(own("grant", "partners", "model", "public", "--all", "--json"))["objects"] == 1
    assert len(as_json(own("accounts", "partners", "--add", "acme", "--add", "beta", "--json"))) == 2
    (opened,) = as_json(own("accounts", "partners", "--add", "acme", "--remove", "beta", "--json"))
    assert opened["grantee_name"] == "ACME"
    assert "--set says all" in refused(own("accounts", "partners", "--set", "a", "--add", "b"), 2)
    assert [row["kind"] for row in as_json(run(key, "shares", "list", "--json"))] == ["INBOUND"]
    assert "<DB>.PUBLIC.TUNED" in good(run(key, "shares", "show", "partners", "--from", "main"))
    assert "IMPORTED PRIVILEGES" in good(run(key, "shares", "use", "main", "partners", "theirs"))
    assert "tuned:" in good(run(key, "complete", "theirs.public.tuned", "hello")).lower()
    assert [row["model"] for row in as_json(run(key, "models", "list", "--json"))] == ["THEIRS.PUBLIC.TUNED"]
    assert "main.LUTHIER.PUBLIC.TUNED" in good(run(key, "models", "show", "theirs.public.tuned"))
    assert "another account's" in refused(run(key, "models", "artifacts", "theirs.public.tuned"), 4)
    assert "another account's" in refused(run(key, "models", "versions", "theirs.public.tuned"), 4)
    good(own("revoke", "partners", "model", "tuned"))
    assert "Dropped database THEIRS." in good(run(key, "shares", "drop-database", "theirs"))
    assert "Dropped share PARTNERS." in good(own("drop", "partners"))
    assert "No share PARTNERS" in refused(own("show", "partners"), 3)


@pytest.mark.usefixtures("tuned")
def test_the_python_client_has_a_method_for_each(server: str) -> None:
    owner = Client(server, KEY)
    tenant = Client(server, owner.accounts.create("acme")["api_key"])
    assert owner.shares.create("s")["name"] == "S"
    for kind, name in (("DATABASE", "luthier"), ("SCHEMA", "public"), ("MODEL", "tuned")):
        assert owner.shares.grant("s", kind, name) == 1
    assert owner.shares.add_accounts("s", ["acme", "beta"]) == ["ACME", "BETA"]
    assert owner.shares.remove_account("s", "beta") == ["ACME"]
    assert owner.shares.set_accounts("s", ["acme"]) == ["ACME"]
    assert len(owner.shares.grants("s")) == len(owner.shares.describe("s")) == 3
    assert [row["grantee_name"] for row in owner.shares.accounts("s")] == ["ACME"]
    assert tenant.shares.list()[0]["owner_account"] == "main"
    assert tenant.shares.use("main", "s", "x") == {"name": "X"}
    assert tenant.complete("x.public.tuned", "hello").endswith("hello")
    assert tenant.shares.drop_database("x") == {"name": "X"}
    assert owner.shares.revoke("s", "MODEL", "tuned") == 1
    assert owner.shares.drop("s") == {"name": "S"}
    with pytest.raises(NotFound):
        owner.shares.describe("s")
