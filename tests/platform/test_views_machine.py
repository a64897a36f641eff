"""Views over views and tables of several owners, made, dropped, granted and passed on in any order, beside a plain
dictionary that says who reads what.
"""

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from luthier.errors import Conflict, InvalidInput, InvalidSql, LuthierError, NotAllowed, NotFound
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import TableInfo, ViewInfo
from luthier.platform.names import QualifiedName
from luthier.platform.registry.access import Access
from luthier.platform.registry.databases import Databases
from luthier.platform.registry.grants import Grants
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.models import Models
from luthier.platform.registry.roles import Roles
from luthier.platform.registry.tables import Tables
from luthier.platform.registry.views import Views
from luthier.platform.securables import HOME, Granted, ObjectKind, Privilege, Securable
from luthier.platform.wire import IfThere
from tests.factories import ADMIN
from tests.machines import Bench, Length, Machine, Watched
from tests.platform.test_grants_machine import raises

LENGTH, WHERE_SLOW = Length(40, 150, 3_000), Length(10, 60, 300)
ROLES = ("A", "B")
NAMES = ("T", "U", "V", "W", "X")

names = st.sampled_from(NAMES)
table_names, view_names = st.sampled_from(NAMES[:2]), st.sampled_from(NAMES[1:])
roles = st.sampled_from((*ROLES, ADMIN_ROLE))


class Plain(NamedTuple):
    owner: str
    reads: tuple[str, ...] | None
    """None: it is a table."""


class ViewsMachine(Machine):
    def __init__(self, store: Watched) -> None:
        super().__init__(store)
        guard = Guard(store)
        Access(store, guard).add_admin_key(ADMIN.account, "hash", "lt_")
        self.roles = Roles(store, guard, Access(store, guard), lambda: 1)
        self.grants = Grants(store, guard, self.roles, Catalog({}), lambda: 1)
        self.tables, self.views = Tables(store, guard), Views(store, guard)
        Databases(store, guard, (self.tables, self.views, Models(store, lambda: 1)), HOME, lambda: 1)
        self.there: dict[str, Plain] = {}
        self.granted: set[tuple[str, str]] = set()
        self.num_made = 0

    @initialize()
    def begin(self) -> None:
        for role in ROLES:
            self.roles.create(ADMIN, role)
            self.grants.grant(ADMIN, Granted((Privilege.USAGE,), HOME.in_database), role)
            self.grants.grant(ADMIN, Granted((Privilege.USAGE, Privilege.CREATE_VIEW), HOME), role)
        self.make_table("T")
        for name, beneath in (("V", "T"), ("W", "V")):
            self.make_view(ADMIN_ROLE, name, (beneath,), IfThere.REFUSE)
            self.change_select(name, "A", True)

    @rule(name=table_names)
    def make_table(self, name: str) -> None:
        info = TableInfo(name=name, owner="admin", path=f"{name}.parquet", num_rows=1, columns=["a"], created_on=1)
        there, verb = self.there.get(name), lambda: self.tables.create(ADMIN, full(name), info)
        if there is None:
            verb()
            self.there[name] = Plain(ADMIN_ROLE, None)
        elif there.reads is not None:
            raises(Conflict, verb)

    @rule(name=table_names)
    def drop_table(self, name: str) -> None:
        there, verb = self.there.get(name), lambda: self.tables.drop(ADMIN, full(name))
        if there is None or there.reads is not None:
            raises(NotFound, verb)
        else:
            verb()
            self._forget(name)

    @rule(by=roles, name=view_names, reads=st.lists(names, max_size=3).map(tuple), if_there=st.sampled_from(IfThere))
    def make_view(self, by: str, name: str, reads: tuple[str, ...], if_there: IfThere) -> None:
        self.num_made += 1
        view = ViewInfo(
            name=full(name).dotted,
            owner="u",
            role=by,
            query="SELECT 1",
            reads=[full(read).dotted for read in reads],
            gives=["a"],
            columns=["a"],
            created_on=self.num_made,
        )
        there, verb = self.there.get(name), lambda: self.views.create(caller(by), full(name), view, if_there)
        is_kept = there is not None and there.reads is not None and if_there is IfThere.KEEP
        if error := None if is_kept else self._why_not_made(by, name, reads, if_there):
            raises(error, verb)
            return
        assert verb() is not is_kept
        if not is_kept:
            self._forget(name)
            self.there[name] = Plain(by, reads)

    @rule(by=roles, name=names)
    def drop_view(self, by: str, name: str) -> None:
        verb = lambda: self.views.drop(caller(by), full(name))  # noqa: E731
        if error := self._why_not_dropped(by, name):
            raises(error, verb)
        else:
            verb()
            self._forget(name)

    @rule(name=names, to=st.sampled_from(ROLES), is_given=st.booleans())
    def change_select(self, name: str, to: str, is_given: bool) -> None:
        if there := self.there.get(name):
            verb = self.grants.grant if is_given else self.grants.revoke
            verb(ADMIN, Granted((Privilege.SELECT,), on(name, there)), to)
            (self.granted.add if is_given else self.granted.discard)((to, name))

    @rule(name=names, to=roles)
    def pass_on(self, name: str, to: str) -> None:
        if there := self.there.get(name):
            self.grants.grant(ADMIN, Granted((Privilege.OWNERSHIP,), on(name, there)), to)
            self.there[name] = there._replace(owner=to)

    @rule(by=roles)
    def show(self, by: str) -> None:
        shown = [view.name for view in self.views.show(caller(by))]
        assert shown == [full(name).dotted for name in NAMES if self._is_view(name) and self._may_read(by, name)]

    @rule(by=roles, asked=st.lists(names, min_size=1, max_size=3))
    def read(self, by: str, asked: list[str]) -> None:
        mine = {name for name in asked if self._is_view(name) and self._may_read(by, name)}
        beneath = self._beneath(mine, self.there)
        verb = lambda: self.views.open(caller(by), [full(name) for name in asked])  # noqa: E731
        if beneath is None:
            raises(InvalidSql, verb)
            return
        opened = verb()
        assert set(opened.asked) == {full(name).dotted for name in mine}
        assert {*opened.views, *opened.tables} == {full(name).dotted for name in beneath}

    # what the dictionary says

    def _is_view(self, name: str) -> bool:
        return name in self.there and self.there[name].reads is not None

    def _may_read(self, by: str, name: str) -> bool:
        there = self.there.get(name)
        return there is not None and (by in (ADMIN_ROLE, there.owner) or (by, name) in self.granted)

    def _beneath(self, asked: set[str], meant: dict[str, Plain]) -> set[str] | None:
        """With all that is read in the end; None where somebody on the way may not."""
        found, waiting = set(asked), list(asked)
        while waiting:
            view = meant[waiting.pop()]
            for read in view.reads or ():
                if not self._may_read(view.owner, read):
                    return None
                if read not in found:
                    waiting.append(read)
                found.add(read)
        return found

    def _why_not_made(self, by: str, name: str, reads: tuple[str, ...], if_there: IfThere) -> type[LuthierError] | None:
        there, meant = self.there.get(name), {**self.there, name: Plain(by, reads)}
        if there and (there.reads is None or if_there is IfThere.REFUSE):
            return Conflict
        if (beneath := self._beneath({name}, meant)) is None:
            return InvalidSql
        if any(name in (meant[each].reads or ()) for each in beneath):
            return InvalidInput
        return self._why_not_dropped(by, name) if there else None

    def _why_not_dropped(self, by: str, name: str) -> type[LuthierError] | None:
        if not self._is_view(name) or not self._may_read(by, name):
            return NotFound
        return None if by in (ADMIN_ROLE, self.there[name].owner) else NotAllowed

    def _forget(self, name: str) -> None:
        self.there.pop(name, None)
        self.granted = {each for each in self.granted if each[1] != name}


def full(name: str) -> QualifiedName:
    return QualifiedName(HOME.database, HOME.schema, name, f"{HOME.dotted}.{name}")


def caller(role: str) -> Caller:
    return Caller(account=ADMIN.account, user="u", role=role)


def on(name: str, there: Plain) -> Securable:
    return Securable.named(ObjectKind.TABLE if there.reads is None else ObjectKind.VIEW, full(name))


def test_views(bench: Bench) -> None:
    bench.run(ViewsMachine, LENGTH, WHERE_SLOW)
