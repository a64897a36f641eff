"""Databases and schemas: made, seen by who holds something there, gone with all that was granted in them."""

from collections.abc import Callable

import pytest

from luthier.errors import Conflict, InvalidInput, LuthierError, NotAllowed, NotFound
from luthier.platform.access import Caller
from luthier.platform.models import TableInfo
from luthier.platform.names import QualifiedName
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import HOME, Granted, ObjectKind, Privilege, Scope, Securable
from luthier.platform.settings import Settings
from tests.factories import ADMIN, make_job
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

ANN = Caller(account="main", user="ann", role="R")
D, S = Securable(ObjectKind.DATABASE, "D"), Securable(ObjectKind.SCHEMA, "D", "S")
T = QualifiedName("D", "S", "T", "D.S.t")
INFO = TableInfo(name="D.S.t", owner="admin", path="t.parquet", num_rows=1, columns=["a"], created_on=1)


@pytest.fixture
def made(registry: Registry) -> Registry:
    registry.roles.create(ADMIN, "R")
    registry.databases.create(ADMIN, D, "for tests")
    registry.databases.create(ADMIN, S)
    return registry


def names(registry: Registry, caller: Caller, kind: ObjectKind = ObjectKind.SCHEMA) -> list[str]:
    return [".".join(filter(None, (each.database, each.name))) for each in registry.databases.show(caller, kind)]


def grant(registry: Registry, privilege: Privilege, on: Securable, scope: Scope = Scope.ONE) -> int:
    return registry.grants.grant(ADMIN, Granted((privilege,), on, scope), "R")


def test_a_database_begins_with_a_schema(made: Registry) -> None:
    assert names(made, ADMIN, ObjectKind.DATABASE) == ["D", "LUTHIER"]
    assert names(made, ADMIN) == ["D.PUBLIC", "D.S", "LUTHIER.PUBLIC"]
    assert [each.name for each in made.databases.show(ADMIN, ObjectKind.SCHEMA, "LUTHIER")] == ["PUBLIC"]
    first, home = made.databases.show(ADMIN, ObjectKind.DATABASE)
    assert (first.comment, first.owner, first.is_default, home.is_default) == ("for tests", ADMIN.role, False, True)
    assert made.databases.create(ADMIN, D) is made.databases.create(ADMIN, S) is False, "called again"


def test_who_holds_nothing_there_sees_nothing(made: Registry) -> None:
    assert names(made, ANN) == names(made, ANN, ObjectKind.DATABASE) == []
    hidden = lambda place: lambda: made.databases.drop(ANN, place)  # noqa: E731
    for place in (D, S):
        other = Securable(place.kind, "X", place.schema)
        assert told(NotFound, hidden(place)).replace("D", "X", 1) == told(NotFound, hidden(other))
    grant(made, Privilege.USAGE, S)
    assert names(made, ANN) == [], "its database is closed"
    grant(made, Privilege.USAGE, D)
    assert (names(made, ANN), names(made, ANN, ObjectKind.DATABASE)) == (["D.S"], ["D"])
    assert "OWNERSHIP ON SCHEMA D.S is needed to change or drop it" in told(NotAllowed, hidden(S))


def test_who_may_make_one(made: Registry) -> None:
    place = Securable(ObjectKind.DATABASE, "ANNS")
    assert "CREATE DATABASE ON ACCOUNT" in told(NotAllowed, lambda: made.databases.create(ANN, place))
    grant(made, Privilege.CREATE_DATABASE, Securable(ObjectKind.ACCOUNT))
    assert made.databases.create(ANN, place)
    assert names(made, ANN) == ["ANNS.PUBLIC"]
    assert made.databases.create(ANN, Securable(ObjectKind.SCHEMA, "ANNS", "MORE")), "who owns a database may"
    more = Securable(ObjectKind.SCHEMA, "D", "MORE")
    assert "CREATE SCHEMA ON DATABASE D" in told(NotAllowed, lambda: made.databases.create(ANN, more))
    grant(made, Privilege.CREATE_SCHEMA, D)
    assert made.databases.create(ANN, more)
    told(Conflict, lambda: made.databases.create(ANN, S))
    made.roles.drop(ADMIN, "R")
    assert {each.owner for each in made.databases.show(ADMIN, ObjectKind.SCHEMA)} == {ADMIN.role}, "it is passed on"


@pytest.mark.parametrize(
    "parts",
    [
        ("SNOWFLAKE", ""),
        ("INFORMATION_SCHEMA", ""),
        ("D", "INFORMATION_SCHEMA"),
        ("TEMP", ""),
        ("memory", ""),
        ("D", "System"),
    ],
)
def test_names_that_are_taken_by_the_platform(made: Registry, parts: tuple[str, str]) -> None:
    kind = ObjectKind.SCHEMA if parts[1] else ObjectKind.DATABASE
    told(InvalidInput, lambda: made.databases.create(ADMIN, Securable(kind, *parts)))


def test_nothing_is_made_or_granted_where_no_place_is(made: Registry) -> None:
    lost = QualifiedName("D", "LOST", "T", "D.LOST.T")
    verbs: list[Callable[[], object]] = [
        lambda: made.tables.precheck(ADMIN, lost),
        lambda: made.tables.create(ADMIN, lost, INFO),
        lambda: made.models.precheck_import(ADMIN, lost),
        lambda: made.jobs.submit(make_job(model="D.LOST.TUNED")),
        lambda: grant(made, Privilege.USAGE, Securable(ObjectKind.SCHEMA, "D", "LOST")),
        lambda: grant(made, Privilege.USAGE, Securable(ObjectKind.MODEL, "D", "LOST"), Scope.FUTURE),
        lambda: made.grants.on(ADMIN, Securable(ObjectKind.SCHEMA, "D", "LOST")),
        lambda: made.grants.future(ADMIN, Securable(ObjectKind.SCHEMA, "D", "LOST")),
    ]
    for verb in verbs:
        assert told(NotFound, verb) == "No schema D.LOST. `luthier schemas list` shows those there are."


@pytest.mark.parametrize("place", [D, S])
def test_what_holds_something_is_dropped_with_it_or_not_at_all(made: Registry, place: Securable) -> None:
    made.tables.create(ADMIN, T, INFO)
    made.jobs.submit(make_job(model="D.S.TUNED"))
    assert "A job is making a model in" in told(Conflict, lambda: made.databases.drop(ADMIN, place, cascade=True))
    made.jobs.cancel(ADMIN, "ft_1")
    assert "is not empty" in told(Conflict, lambda: made.databases.drop(ADMIN, place))
    for on in (D, S):
        grant(made, Privilege.USAGE, on)
    grant(made, Privilege.SELECT, Securable(ObjectKind.TABLE, "D", "S"), Scope.FUTURE)
    assert [each.path for each in made.databases.drop(ADMIN, place, cascade=True)] == ["t.parquet"]
    assert made.tables.show(ADMIN) == []
    told(NotFound, lambda: made.databases.drop(ADMIN, place))
    made.databases.create(ADMIN, D)
    made.databases.create(ADMIN, S)
    made.tables.create(ADMIN, T, INFO)
    left = [] if place == D else ["D"]
    assert [each.name for each in made.grants.to_role(ADMIN, "R")] == left, "what was granted there ended with it"


@pytest.mark.parametrize("place", [HOME, HOME.in_database])
def test_where_names_are_looked_for_stays(made: Registry, place: Securable) -> None:
    assert "it stays" in told(InvalidInput, lambda: made.databases.drop(ADMIN, place))


def test_other_settings_bring_their_own_place(made: Registry, settings: Settings) -> None:
    there = settings.model_copy(update={"database": "LAB", "schema_name": "WORK"})
    again = Registry(there, Launcher())
    again.access.add_admin_key("other", "hash", "lt_")
    for account in ("main", "other"):
        assert "LAB.WORK" in names(again, ADMIN.model_copy(update={"account": account}))
    assert "LUTHIER.PUBLIC" in names(again, ADMIN)


def told(kind: type[LuthierError], verb: Callable[[], object]) -> str:
    with pytest.raises(kind) as raised:
        verb()
    return raised.value.message
