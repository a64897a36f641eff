"""What SHOW is to leave is looked for in the store: however many others there are before it."""

import pytest
from starlette.testclient import TestClient

from luthier.platform.registry.paging import Named
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import ObjectKind
from luthier.serve.dialects import snowflake_statements
from tests.factories import ADMIN, make_finished, make_job
from tests.flow.conftest import error_of
from tests.flow.people import rows

pytestmark = pytest.mark.stores

NAMES = ("A1", "A2", "A3", "A4", "B_1", "BX1", "B%1", "B\\1", "zÉ", "zé", "ZE", "k", "\u212a")
LIKE = {
    "'b\\_1'": {"B_1"},
    "'b_1'": {"B_1", "BX1", "B%1", "B\\1"},
    "'B\\%%'": {"B%1"},
    "'b\\\\_1'": {"B_1"},
    "'b\\\\\\\\1'": {"B\\1"},
    "'%4'": {"A4"},
    "'Zé'": {"zÉ", "zé"},
    "'k'": {"k"},  # and not the Kelvin sign, which is a k to Unicode
    "'\u212a'": {"k", "\u212a"},
    "'zz%'": set(),
    "''": set(),
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were ten thousand before them."""
    monkeypatch.setattr(snowflake_statements, "MAX_ROWS", 4)


@pytest.fixture
def named(registry: Registry) -> None:
    for name in NAMES:
        registry.roles.create(ADMIN, name)
        registry.users.create(ADMIN, name)


def shown(api: TestClient, statement: str) -> set[object]:
    return {row["name"] for row in rows(api, statement)}


@pytest.mark.parametrize("kind", ["ROLES", "USERS"])
def test_like(api: TestClient, named: None, kind: str) -> None:
    for like, names in LIKE.items():
        assert shown(api, f"/* {kind} */ SHOW {kind} LIKE {like}; -- and no other") == names, like


@pytest.mark.parametrize("kind", ["ROLES", "USERS"])
def test_starts_with_and_from(api: TestClient, named: None, kind: str) -> None:
    assert shown(api, f"SHOW {kind} STARTS WITH 'B%'") == {"B%1"}
    assert shown(api, f"SHOW {kind} STARTS WITH 'Z'") == {"ZE"}
    assert shown(api, f"SHOW {kind} STARTS WITH '{'B' * 60_000}'") == set(), "SQLite takes no such pattern"
    assert shown(api, f"SHOW {kind} LIKE 'a_' LIMIT 9 FROM 'A3'") == {"A4"}
    assert shown(api, f"SHOW {kind} LIKE 'z_' LIMIT 9 FROM 'ZE'") <= {"zÉ", "zé"}, (
        "which of them come first, a store says"
    )


def test_a_pattern_that_is_too_long_is_refused(api: TestClient) -> None:
    refused = api.post("/luthier/v1/sql", json={"statement": f"SHOW ROLES LIKE '{'k' * 100_000}'"})
    told = error_of(refused, 422, "sql_compilation_error")
    assert told == "The pattern of LIKE has more than 1000 characters."


def test_letters_that_the_store_cannot_tell_apart(api: TestClient, registry: Registry) -> None:
    for name in "äåæçéö":
        registry.roles.create(ADMIN, name)
    for letter in "äåæçéö":
        assert shown(api, f"SHOW ROLES LIKE '{letter}'") == {letter}


def test_views(api: TestClient) -> None:
    rows(api, "CREATE DATABASE z")
    for name in ("v0", "v1", "v2", "v3", "v4", "z.public.v5"):
        rows(api, f"CREATE VIEW {name} AS SELECT 1 AS a")
    assert shown(api, "SHOW VIEWS") == {"V0", "V1", "V2", "V3"}
    assert shown(api, "SHOW VIEWS LIKE 'v4'") == {"V4"}
    assert shown(api, "SHOW VIEWS IN DATABASE z") == {"V5"}


def test_databases_and_schemas(api: TestClient) -> None:
    for number in range(6):
        rows(api, f"CREATE DATABASE d{number}")
        rows(api, f"CREATE SCHEMA d0.s{number}")
    assert shown(api, "SHOW DATABASES LIKE 'd5'") == {"D5"}
    assert shown(api, "SHOW DATABASES LIMIT 5 FROM 'D4'") == {"D5", "LUTHIER"}
    assert shown(api, "SHOW SCHEMAS LIKE 's5' IN DATABASE d0") == {"S5"}


def test_models(api: TestClient, registry: Registry) -> None:
    for number in range(6):
        registry.jobs.submit(make_job(f"ft_{number}", model=f"LUTHIER.PUBLIC.M{number}"))
        registry.jobs.tick()
        registry.jobs.finish(f"ft_{number}", make_finished())
    rows(api, "CREATE DATABASE z")
    registry.jobs.submit(make_job("ft_z", model="Z.PUBLIC.LAST"))
    registry.jobs.tick()
    registry.jobs.finish("ft_z", make_finished())
    assert shown(api, "SHOW MODELS IN DATABASE z") == shown(api, "SHOW MODELS IN SCHEMA z.public") == {"LAST"}
    assert shown(api, "SHOW MODELS LIKE 'm5'") == {"M5"}
    assert shown(api, "SHOW MODELS STARTS WITH 'M4'") == {"M4"}
    listed = registry.models.show(ADMIN.model_copy(update={"role": "PUBLIC"}), wanted=Named(like="m5"))
    assert listed == []
    (kept,) = registry.databases.show(ADMIN, ObjectKind.DATABASE, wanted=Named(like="luthier"))
    assert kept.name == "LUTHIER"
