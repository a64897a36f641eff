"""Views as rows: found with what is beneath, each as its owner may read it; shown in pages; gone with their grants."""

import pytest

from luthier.errors import Conflict, InvalidInput, InvalidSql, NotAllowed, NotFound
from luthier.platform.access import Caller
from luthier.platform.models import TableInfo, ViewInfo
from luthier.platform.names import QualifiedName
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.view_rows import MAX_DEPTH, MAX_NAMES
from luthier.platform.registry.views import all_views
from luthier.platform.securables import HOME, Granted, ObjectKind, Privilege, Securable
from luthier.platform.wire import IfThere
from tests.factories import ADMIN
from tests.platform.test_databases import told

pytestmark = pytest.mark.stores

ANN = Caller(account="main", user="ann", role="R")


def name(of: str) -> QualifiedName:
    return QualifiedName(HOME.database, HOME.schema, of, of.lower())


def view(of: str, *reads: str, by: Caller = ADMIN, **given: object) -> ViewInfo:
    full = [name(read).dotted for read in reads]
    fields = {"owner": by.user, "role": by.role, "query": f"SELECT {of}", "gives": ["a"], "columns": ["a"]}
    return ViewInfo(name=of.lower(), reads=full, **{**fields, "created_on": 1, **given})


def make(registry: Registry, of: str, *reads: str, by: Caller = ADMIN, **given: object) -> bool:
    return registry.views.create(by, name(of), view(of, *reads, by=by, **given))


def grant(registry: Registry, privilege: Privilege, on: Securable) -> None:
    registry.grants.grant(ADMIN, Granted((privilege,), on), "R")


def on_view(of: str) -> Securable:
    return Securable.named(ObjectKind.VIEW, name(of))


@pytest.fixture
def made(registry: Registry) -> Registry:
    """Two tables, a view over one, a view over that."""
    registry.roles.create(ADMIN, "R")
    for table in ("T", "U"):
        info = TableInfo(name=table, owner="admin", path=f"{table}.parquet", num_rows=1, columns=["a"], created_on=1)
        registry.tables.create(ADMIN, name(table), info)
    make(registry, "V", "T")
    make(registry, "W", "V", "U", "V")
    for place in (HOME, HOME.in_database):
        grant(registry, Privilege.USAGE, place)
    return registry


def test_a_view_is_opened_with_all_that_is_beneath(made: Registry) -> None:
    opened = made.views.open(ADMIN, [name("W"), name("T"), name("NOTHING")])
    assert opened.asked == (name("W").dotted,)
    assert set(opened.views) == {name("W").dotted, name("V").dotted}
    assert {table.path for table in opened.tables.values()} == {"T.parquet", "U.parquet"}
    assert made.views.open(ANN, [name("W"), name("V")]).asked == ()
    grant(made, Privilege.SELECT, on_view("W"))
    assert [table.path for table in opened.named] == ["T.parquet"]
    his = opened.model_copy(update={"named": ()})
    assert made.views.open(ANN, [name("W"), name("V"), name("T")]) == his, "V and T are beneath, and not his to name"
    stranger = ADMIN.model_copy(update={"account": "other"})
    assert made.views.open(stranger, [name("W")]).asked == ()


def test_each_view_is_read_as_its_own_owner_may(made: Registry) -> None:
    for privilege, on in ((Privilege.CREATE_VIEW, HOME), (Privilege.SELECT, on_view("V"))):
        grant(made, privilege, on)
    assert make(made, "X", "V", by=ANN)
    assert "Object 'LUTHIER.PUBLIC.T' does not exist" in told(InvalidSql, lambda: make(made, "Y", "V", "T", by=ANN))
    made.grants.revoke(ADMIN, Granted((Privilege.SELECT,), on_view("V")), "R")
    for caller in (ADMIN, ANN):
        lost = told(InvalidSql, lambda: made.views.open(caller, [name("X")]))  # noqa: B023 - called at once
        assert lost == "Failure during expansion of view x: Object 'LUTHIER.PUBLIC.V' does not exist or not authorized."
    made.roles.drop(ADMIN, "R")
    assert made.views.open(ADMIN, [name("X")]).asked, "it is ACCOUNTADMIN's now"


def test_asked_twice_it_is_made_once(made: Registry) -> None:
    grant(made, Privilege.SELECT, on_view("V"))
    assert make(made, "V", "T"), "as a call that is repeated"
    assert [each.name for each in made.views.show(ANN)] == ["v"], "its grants stay"
    other = view("V", "T", created_on=2)
    assert "already exists" in told(Conflict, lambda: made.views.create(ADMIN, name("V"), other))
    assert made.views.create(ADMIN, name("V"), other, IfThere.KEEP) is False
    assert made.views.beneath(ADMIN, name("V"), other, IfThere.KEEP) is None
    assert made.views.create(ADMIN, name("V"), other, IfThere.REPLACE)
    assert made.views.show(ANN) == []
    ring = view("V", "W", created_on=3)
    for verb in (made.views.beneath, made.views.create):
        assert "refers to view being defined" in told(
            InvalidInput,
            lambda: verb(ADMIN, name("V"), ring, IfThere.REPLACE),  # noqa: B023 - called at once
        )


def test_who_may_make_and_drop_one(made: Registry) -> None:
    assert "CREATE VIEW ON SCHEMA LUTHIER.PUBLIC" in told(NotAllowed, lambda: make(made, "X", by=ANN))
    assert "No view v." in told(NotFound, lambda: made.views.drop(ANN, name("V")))
    grant(made, Privilege.SELECT, on_view("V"))
    assert "OWNERSHIP ON VIEW LUTHIER.PUBLIC.V" in told(NotAllowed, lambda: made.views.drop(ANN, name("V")))
    made.grants.grant(ADMIN, Granted((Privilege.OWNERSHIP,), on_view("V")), "R")
    made.views.drop(ANN, name("V"))
    assert "No view v." in told(NotFound, lambda: made.views.drop(ANN, name("V")))
    assert "expansion of view w" in told(InvalidSql, lambda: made.views.open(ADMIN, [name("W")]))


def test_pages(made: Registry) -> None:
    for at in range(45):
        make(made, f"P{at:02}")
    shown = [each.name for each in all_views(made.views, ADMIN, 100)]
    assert shown == [*(f"p{at:02}" for at in range(45)), "v", "w"]
    grant(made, Privilege.SELECT, on_view("P44"))
    grant(made, Privilege.SELECT, on_view("V"))
    assert [each.name for each in made.views.show(ANN, 1)] == ["p44"]
    assert [each.name for each in made.views.show(ANN, 1, "luthier.public.p44")] == ["v"]
    assert made.views.show(ANN, 1, "luthier.public.v") == []


def test_how_deep_and_how_wide(made: Registry) -> None:
    make(made, "D1")
    for at in range(2, MAX_DEPTH + 1):
        make(made, f"D{at}", f"D{at - 1}")
    too_deep = f"more than {MAX_DEPTH} deep"
    assert too_deep in told(InvalidSql, lambda: make(made, "X", f"D{MAX_DEPTH}"))
    make(made, "LOW", "D10")
    assert too_deep in told(InvalidSql, lambda: make(made, "X", "LOW", "D15", "LOW", f"D{MAX_DEPTH}"))
    made.views.create(ADMIN, name("D1"), view("D1", "W"), IfThere.REPLACE)
    assert made.views.open(ADMIN, [name("D14")]).asked
    assert too_deep in told(InvalidSql, lambda: made.views.open(ADMIN, [name("D15")]))
    make(made, "W0")
    for at in range(1, 9):
        make(made, f"W{at}", f"W{at - 1}", f"W{at - 1}")
    assert "reads 257 tables" in told(InvalidSql, lambda: make(made, "X", "W8", "W0"))


def test_so_many_names_and_no_more(made: Registry) -> None:
    names = [name(f"N{at}") for at in range(MAX_NAMES)]
    assert made.views.open(ADMIN, names).asked == ()
    assert f"at most {MAX_NAMES}" in told(InvalidSql, lambda: made.views.open(ADMIN, [*names, name("V")]))


def test_nothing_beneath_a_secure_view_is_told(made: Registry) -> None:
    make(made, "S", "V", is_secure=True)
    make(made, "O", "S")
    for of in ("S", "O"):
        grant(made, Privilege.SELECT, on_view(of))
    made.tables.drop(ADMIN, name("T"))
    for of in ("S", "O"):
        lost = told(InvalidSql, lambda: made.views.open(ANN, [name(of)]))  # noqa: B023 - called at once
        assert lost == "Failure during expansion of view s: What it reads does not exist or not authorized."
        assert "view v: Object 'LUTHIER.PUBLIC.T'" in told(
            InvalidSql,
            lambda: made.views.open(ADMIN, [name(of)]),  # noqa: B023 - called at once
        )
