"""Roles, users, places, grants, future grants and ownership of two accounts in any order, beside sets that say in the
plainest way who may do what.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from luthier.errors import Conflict, LuthierError, NotAllowed, NotFound
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import ImportedModel
from luthier.platform.names import QualifiedName
from luthier.platform.privileges import Action
from luthier.platform.registry.access import Access
from luthier.platform.registry.accounts import Accounts
from luthier.platform.registry.databases import Databases
from luthier.platform.registry.grants import Grants
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.models import Models
from luthier.platform.registry.roles import Roles
from luthier.platform.registry.tables import Tables
from luthier.platform.registry.users import Users
from luthier.platform.registry.versions import Versions
from luthier.platform.registry.views import Views
from luthier.platform.securables import (
    ACCOUNT,
    DATABASE_ROLES,
    HOME,
    PUBLIC,
    Granted,
    ObjectKind,
    Privilege,
    Scope,
    Securable,
)
from luthier.platform.tasks import TaskType
from tests.machines import Bench, Length, Machine, Watched
from tests.platform.plain_rights import CALLS, DATABASE, SCHEMA, Plain, model

LENGTH, WHERE_SLOW = Length(26, 500, at_least=10_000), Length(2, 200, at_least=200)
ACCOUNTS = ("main", "other")
ROLES = ("A", "B", "C", "E")
USERS = ("U", "V")
MODELS = ("M", "N")
FIRST_SCHEMA = Securable(ObjectKind.SCHEMA, "D", PUBLIC)
FUTURE = Securable(ObjectKind.MODEL, "D", "S")
FIRST_GRANTS = 2
"""In an account, beside those of the sets: the first database and schema are ACCOUNTADMIN's."""
MADE = ImportedModel(base_model="tiny", path="p", sha256="ab", rank=8, task_type=TaskType.CHAT_COMPLETION, created_on=1)

USES = tuple(dict.fromkeys(each for _, uses in CALLS.values() for each in uses))

accounts = st.sampled_from(ACCOUNTS)
roles = st.sampled_from(ROLES)
anybody = st.sampled_from((*ROLES, PUBLIC))
models = st.sampled_from(MODELS)
privileges = st.sampled_from((Privilege.USAGE, Privilege.READ))
places = st.sampled_from((DATABASE, SCHEMA))


def named(name: str) -> QualifiedName:
    return QualifiedName("D", "S", name, name)


class GrantsMachine(Machine):
    def __init__(self, store: Watched) -> None:
        super().__init__(store)
        guard = Guard(store)
        self.access = Access(store, guard)
        for account in ACCOUNTS:
            self.access.add_admin_key(account, f"hash of {account}", "lt_")
        self.roles = Roles(store, guard, self.access, lambda: 1)
        self.users = Users(store, guard, self.roles, lambda: 1)
        self.grants = Grants(store, guard, self.roles, Catalog({}), lambda: 1)
        self.accounts = Accounts(store, guard, Catalog({}), lambda: 1)
        self.models, self.versions = Models(store, lambda: 1), Versions(store, lambda: 1)
        self.databases = Databases(
            store, guard, (Tables(store, guard), Views(store, guard), self.models), HOME, lambda: 1
        )
        self.plain = {account: Plain() for account in ACCOUNTS}

    @initialize()
    def begin(self) -> None:
        """Most runs would else spend their steps on what is not there."""
        for at in ACCOUNTS:
            for place in (DATABASE, SCHEMA):
                self.create_place(at, place)
            for name in ROLES[:2]:
                self.create_role(at, name)
            self.make(at, MODELS[0])

    # roles and users

    @rule(at=accounts, name=roles)
    def create_role(self, at: str, name: str) -> None:
        self.roles.create(admin(at), name)
        self.plain[at].roles.add(name)

    @rule(at=accounts, name=roles)
    def drop_role(self, at: str, name: str) -> None:
        plain = self.plain[at]
        if not self._there(at, name, lambda: self.roles.drop(admin(at), name)):
            return
        plain.roles.remove(name)
        plain.members = {pair for pair in plain.members if name not in pair}
        passed = {(ADMIN_ROLE, privilege, on) for to, privilege, on in plain.held if to == name and on in plain.places}
        passed = {each for each in passed if each[1] is Privilege.OWNERSHIP}
        plain.held = {each for each in plain.held if each[0] != name} | passed
        plain.future = {each for each in plain.future if each[0] != name}
        plain.owners = {of: ADMIN_ROLE if owner == name else owner for of, owner in plain.owners.items()}
        for given in plain.users.values():
            given.discard(name)

    @rule(at=accounts, name=roles, to=anybody)
    def grant_role(self, at: str, name: str, to: str) -> None:
        plain, verb = self.plain[at], lambda: self.roles.grant(admin(at), name, role(to))
        if not {name, to} <= plain.roles:
            raises(NotFound, verb)
        elif to in plain.of(name, everybody=False):
            raises(Conflict, verb)
        else:
            verb()
            plain.members.add((name, to))

    @rule(at=accounts, name=roles, to=anybody)
    def revoke_role(self, at: str, name: str, to: str) -> None:
        if {name, to} <= self.plain[at].roles:
            self.roles.revoke(admin(at), name, role(to))
            self.plain[at].members.discard((name, to))

    @rule(at=accounts, name=st.sampled_from(USERS), is_made=st.booleans())
    def change_user(self, at: str, name: str, is_made: bool) -> None:
        users = self.plain[at].users
        if is_made:
            self.users.create(admin(at), name)
            users.setdefault(name, set())
        elif users.pop(name, None) is None:
            raises(NotFound, lambda: self.users.drop(admin(at), name))
        else:
            self.users.drop(admin(at), name)

    @rule(at=accounts, name=roles, to=st.sampled_from(USERS), is_given=st.booleans())
    def role_of_user(self, at: str, name: str, to: str, is_given: bool) -> None:
        plain, verb = self.plain[at], self.roles.grant if is_given else self.roles.revoke
        user = Securable(ObjectKind.USER, name=to)
        if name not in plain.roles or to not in plain.users:
            raises(NotFound, lambda: verb(admin(at), name, user))
            return
        verb(admin(at), name, user)
        (plain.users[to].add if is_given else plain.users[to].discard)(name)

    # places and models

    @rule(at=accounts, place=places)
    def create_place(self, at: str, place: Securable) -> None:
        plain, verb = self.plain[at], lambda: self.databases.create(admin(at), place)
        if place == SCHEMA and DATABASE not in plain.places:
            raises(NotFound, verb)
        elif place not in plain.places:
            verb()
            made = {place, FIRST_SCHEMA} if place == DATABASE else {place}
            plain.places |= made
            plain.held |= {(ADMIN_ROLE, Privilege.OWNERSHIP, each) for each in made}

    @rule(at=accounts, place=places, luck=st.integers(0, 3))
    def drop_place(self, at: str, place: Securable, luck: int) -> None:
        plain, verb = self.plain[at], lambda: self.databases.drop(admin(at), place, cascade=True)
        if place not in plain.places:
            raises(NotFound, verb)
        elif luck == 0:
            verb()
            gone = {SCHEMA} if place == SCHEMA else {DATABASE, SCHEMA, FIRST_SCHEMA}
            plain.places -= gone
            plain.owners, plain.future = {}, set()
            plain.end(lambda on: on in gone or on.kind is ObjectKind.MODEL)

    @rule(at=accounts, name=models)
    def make(self, at: str, name: str) -> None:
        plain, verb = self.plain[at], lambda: self.models.import_model(admin(at), named(name), MADE)
        if SCHEMA not in plain.places:
            raises(NotFound, verb)
        elif name not in plain.owners:
            verb()
            plain.owners[name] = ADMIN_ROLE
            plain.held |= {(grantee, privilege, model(name)) for grantee, privilege in plain.future}

    @rule(at=accounts, name=models)
    def drop(self, at: str, name: str) -> None:
        plain = self.plain[at]
        if name in plain.owners:
            self.models.drop(admin(at), named(name))
            del plain.owners[name]
            plain.end(lambda on: on == model(name))

    # grants

    @rule(at=accounts, name=models, to=roles)
    def pass_on(self, at: str, name: str, to: str) -> None:
        owners, granted = self.plain[at].owners, Granted((Privilege.OWNERSHIP,), model(name))
        if name in owners and self._there(at, to, lambda: self.grants.grant(admin(at), granted, to)):
            owners[name] = to

    @rule(at=accounts, place=places, to=roles)
    def pass_place_on(self, at: str, place: Securable, to: str) -> None:
        plain, granted = self.plain[at], Granted((Privilege.OWNERSHIP,), place)
        if place in plain.places and self._there(at, to, lambda: self.grants.grant(admin(at), granted, to)):
            plain.held = {each for each in plain.held if each[1:] != (Privilege.OWNERSHIP, place)}
            plain.held.add((to, Privilege.OWNERSHIP, place))

    @rule(at=accounts, by=roles, place=places, to=anybody, is_given=st.booleans())
    def open_place(self, at: str, by: str, place: Securable, to: str, is_given: bool) -> None:
        self._change(at, by, Granted((Privilege.USAGE,), place), to, is_given)

    @rule(at=accounts, by=roles, name=models, privilege=privileges, to=anybody, is_given=st.booleans())
    def grant(self, at: str, by: str, name: str, privilege: Privilege, to: str, is_given: bool) -> None:
        self._change(at, by, Granted((privilege,), model(name)), to, is_given)

    @rule(at=accounts, to=roles, is_given=st.booleans())
    def manage_grants(self, at: str, to: str, is_given: bool) -> None:
        self._give(at, ADMIN_ROLE, Granted((Privilege.MANAGE_GRANTS,), ACCOUNT), to, is_given)

    @rule(at=accounts, privilege=st.sampled_from(USES), to=anybody, is_given=st.booleans())
    def use_functions(self, at: str, privilege: Privilege, to: str, is_given: bool) -> None:
        self._give(at, ADMIN_ROLE, Granted((privilege,), ACCOUNT), to, is_given)

    @rule(at=accounts, on=st.sampled_from(DATABASE_ROLES), to=anybody, is_given=st.booleans())
    def database_role(self, at: str, on: Securable, to: str, is_given: bool) -> None:
        self._give(at, ADMIN_ROLE, Granted((Privilege.USAGE,), on), to, is_given)

    @rule(at=accounts, privilege=privileges, to=anybody, is_given=st.booleans())
    def grant_all(self, at: str, privilege: Privilege, to: str, is_given: bool) -> None:
        plain, granted = self.plain[at], Granted((privilege,), FUTURE, Scope.ALL)
        meant = {(to, privilege, model(name)) for name in plain.owners}
        if SCHEMA not in plain.places:
            raises(NotFound, lambda: self._verb(is_given)(admin(at), granted, to))
        elif self._there(at, to, lambda: self._verb(is_given)(admin(at), granted, to)):
            plain.held = plain.held | meant if is_given else plain.held - meant

    @rule(at=accounts, privilege=privileges, to=anybody, is_given=st.booleans())
    def grant_future(self, at: str, privilege: Privilege, to: str, is_given: bool) -> None:
        plain, granted = self.plain[at], Granted((privilege,), FUTURE, Scope.FUTURE)
        if SCHEMA not in plain.places:
            raises(NotFound, lambda: self._verb(is_given)(admin(at), granted, to))
        elif self._there(at, to, lambda: self._verb(is_given)(admin(at), granted, to)):
            (plain.future.add if is_given else plain.future.discard)((to, privilege))

    # what is told

    @rule(at=accounts, name=anybody, of=models)
    def ask(self, at: str, name: str, of: str) -> None:
        self._check(at, name, (of,))

    def teardown(self) -> None:
        for at, plain in self.plain.items():
            for name in (*ROLES, PUBLIC, ADMIN_ROLE):
                self._check(at, name, MODELS)
                self._check_places(at, name)
                self._check_calls(at, name)
            with self.store.reading() as tx:
                taken = {name: self.access.roles_of(tx, at, name) for name in plain.users}
                grants = self.store.table("grants")
                left = tx.execute(sa.select(sa.func.count()).where(grants.c.account == at)).scalar_one()
            assert taken == {name: plain.of(*given) for name, given in plain.users.items()}
            assert {user.name for user in self.users.show(admin(at))} == {ADMIN_USER, *plain.users}
            assert left == FIRST_GRANTS + len(plain.held) + len(plain.future), "no grant is left of what is gone"

    def _check(self, at: str, name: str, models: Sequence[str]) -> None:
        plain, caller = self.plain[at], Caller(account=at, user="u", role=name)
        told: dict[Privilege, Callable[[Caller, QualifiedName], object]] = {
            Privilege.USAGE: self.models.get,
            Privilege.READ: self.versions.show,
            Privilege.OWNERSHIP: self.versions.end_canary,
        }
        for of, (action, verb) in itertools.product(models, told.items()):
            do, expected = partial(verb, caller, named(of)), plain.may(name, action, of)
            raises(expected, do) if expected else do()
        listed = {each.model for each in self.models.show(caller)}
        assert listed == {of for of in MODELS if plain.may(name, Privilege.USAGE, of) is None}

    def _check_places(self, at: str, name: str) -> None:
        plain, caller = self.plain[at], Caller(account=at, user="u", role=name)
        shown = {each.name for each in self.databases.show(caller, ObjectKind.SCHEMA) if each.database == "D"}
        assert shown == {each.schema for each in plain.places if each.schema and plain.sees(name, each)}

    def _check_calls(self, at: str, name: str) -> None:
        caller = Caller(account=at, user="u", role=name)
        for action in CALLS:
            asked = partial(self.accounts.check_asks, caller, "tiny")
            verb = asked if action is Action.COMPLETE_BASE else partial(self.grants.check, caller, action)
            verb() if self.plain[at].may_call(name, action) else raises(NotAllowed, verb)

    def _change(self, at: str, by: str, granted: Granted, to: str, is_given: bool) -> None:
        """By one role and by the administrator: the first may, or may not, and is told so."""
        plain, caller = self.plain[at], Caller(account=at, user="u", role=by)
        if expected := plain.may_grant(by, granted.on):
            raises(expected, lambda: self._verb(is_given)(caller, granted, to))
            by = ADMIN_ROLE
        if plain.is_there(granted.on):
            self._give(at, by, granted, to, is_given)

    def _give(self, at: str, by: str, granted: Granted, to: str, is_given: bool) -> None:
        plain, caller = self.plain[at], Caller(account=at, user="u", role=by)
        if self._there(at, to, lambda: self._verb(is_given)(caller, granted, to)):
            meant = {(to, privilege, granted.on) for privilege in granted.privileges}
            plain.held = plain.held | meant if is_given else plain.held - meant

    def _verb(self, is_given: bool) -> Callable[[Caller, Granted, str], int]:
        return self.grants.grant if is_given else self.grants.revoke

    def _there(self, at: str, name: str, verb: Callable[[], object]) -> bool:
        """Does it to a role that is there; of one that is not it is told so."""
        if name in self.plain[at].roles:
            verb()
            return True
        raises(NotFound, verb)
        return False


def admin(account: str) -> Caller:
    return Caller(account=account, user=ADMIN_USER, role=ADMIN_ROLE)


def role(name: str) -> Securable:
    return Securable(ObjectKind.ROLE, name=name)


def raises(kind: type[LuthierError], verb: Callable[[], object]) -> None:
    try:
        verb()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


def test_grants(bench: Bench) -> None:
    bench.run(GrantsMachine, LENGTH, WHERE_SLOW)
