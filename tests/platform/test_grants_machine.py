"""Roles, grants, future grants and ownership in any order, beside sets that say in the plainest way who may do what."""

from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from luthier.errors import Conflict, LuthierError, NotAllowed, NotFound
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import ImportedModel
from luthier.platform.names import QualifiedName
from luthier.platform.registry.access import Access
from luthier.platform.registry.grants import Grants
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.models import Models
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.registry.roles import Roles
from luthier.platform.registry.versions import Versions
from luthier.platform.securables import PUBLIC, Granted, ObjectKind, Privilege, Scope, Securable
from luthier.platform.store import Store
from luthier.platform.tasks import TaskType
from tests.factories import ADMIN

ROLES = ("A", "B", "C", "E")
MODELS = ("M", "N")
DATABASE, SCHEMA = Securable(ObjectKind.DATABASE, "D"), Securable(ObjectKind.SCHEMA, "D", "S")
FUTURE = Securable(ObjectKind.MODEL, "D", "S")
OPEN = {(Privilege.USAGE, DATABASE), (Privilege.USAGE, SCHEMA)}
MADE = ImportedModel(base_model="tiny", path="p", sha256="ab", rank=8, task_type=TaskType.CHAT_COMPLETION, created_on=1)

roles = st.sampled_from(ROLES)
anybody = st.sampled_from((*ROLES, PUBLIC))
models = st.sampled_from(MODELS)
privileges = st.sampled_from((Privilege.USAGE, Privilege.READ))
places = st.sampled_from((DATABASE, SCHEMA))


def model(name: str) -> Securable:
    return Securable(ObjectKind.MODEL, "D", "S", name)


def role(name: str) -> Securable:
    return Securable(ObjectKind.ROLE, name=name)


@dataclass
class Plain:
    """Who may do what, by sets."""

    roles: set[str] = field(default_factory=lambda: {ADMIN_ROLE, PUBLIC})
    members: set[tuple[str, str]] = field(default_factory=set)
    """(role, the role that it is granted to)."""
    held: set[tuple[str, Privilege, Securable]] = field(default_factory=set)
    future: set[tuple[str, Privilege]] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)

    def of(self, name: str, everybody: bool = True) -> set[str]:
        found = {each for each in (name, *([PUBLIC] if everybody else [])) if each in self.roles}
        while more := {given for given, to in self.members if to in found} - found:
            found |= more
        return found

    def may(self, name: str, action: Privilege, of: str) -> type[LuthierError] | None:
        """The error, or None. `action` is the privilege that it needs on the model."""
        if of not in self.owners:
            return NotFound
        mine = self.of(name)
        if ADMIN_ROLE in mine:
            return None
        held = {(privilege, on) for grantee, privilege, on in self.held if grantee in mine}
        own = {privilege for privilege, on in held if on == model(of)}
        if self.owners[of] in mine:
            own = set(Privilege)
        if not held >= OPEN or not own:
            return NotFound
        return None if action in own or (action is Privilege.USAGE and Privilege.READ in own) else NotAllowed


class GrantsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        store = Store("sqlite:///:memory:")
        guard = Guard(store)
        access = Access(store, guard)
        access.add_admin_key(ADMIN.account, "hash", "lt_")
        self.roles = Roles(store, guard, access, lambda: 1)
        self.grants = Grants(store, guard, self.roles, Catalog({}), lambda: 1)
        self.models, self.versions = Models(store, lambda: 1), Versions(store, lambda: 1)
        with store.transaction() as tx:
            PlaceRows(store).add_home(tx, ADMIN.account, SCHEMA, 1)
        self.store, self.plain = store, Plain()

    @rule(name=roles)
    def create_role(self, name: str) -> None:
        self.roles.create(ADMIN, name)
        self.plain.roles.add(name)

    @rule(name=roles)
    def drop_role(self, name: str) -> None:
        if not self._there(name, lambda: self.roles.drop(ADMIN, name)):
            return
        plain = self.plain
        plain.roles.remove(name)
        plain.members = {pair for pair in plain.members if name not in pair}
        plain.held = {each for each in plain.held if each[0] != name}
        plain.future = {each for each in plain.future if each[0] != name}
        plain.owners = {of: ADMIN_ROLE if owner == name else owner for of, owner in plain.owners.items()}

    @rule(name=roles, to=anybody)
    def grant_role(self, name: str, to: str) -> None:
        if not {name, to} <= self.plain.roles:
            raises(NotFound, lambda: self.roles.grant(ADMIN, name, role(to)))
        elif to in self.plain.of(name, everybody=False):
            raises(Conflict, lambda: self.roles.grant(ADMIN, name, role(to)))
        else:
            self.roles.grant(ADMIN, name, role(to))
            self.plain.members.add((name, to))

    @rule(name=roles, to=anybody)
    def revoke_role(self, name: str, to: str) -> None:
        if {name, to} <= self.plain.roles:
            self.roles.revoke(ADMIN, name, role(to))
            self.plain.members.discard((name, to))

    @rule(name=models)
    def make(self, name: str) -> None:
        if name not in self.plain.owners:
            self.models.import_model(ADMIN, QualifiedName("D", "S", name, name), MADE)
            self.plain.owners[name] = ADMIN_ROLE
            self.plain.held |= {(grantee, privilege, model(name)) for grantee, privilege in self.plain.future}

    @rule(name=models)
    def drop(self, name: str) -> None:
        if name in self.plain.owners:
            self.models.drop(ADMIN, QualifiedName("D", "S", name, name))
            del self.plain.owners[name]
            self.plain.held = {each for each in self.plain.held if each[2] != model(name)}

    @rule(name=models, to=roles)
    def pass_on(self, name: str, to: str) -> None:
        if name in self.plain.owners and self._there(
            to, lambda: self.grants.grant(ADMIN, Granted((Privilege.OWNERSHIP,), model(name)), to)
        ):
            self.plain.owners[name] = to

    @rule(on=places, to=anybody, is_given=st.booleans())
    def open_place(self, on: Securable, to: str, is_given: bool) -> None:
        self._change(Granted((Privilege.USAGE,), on), to, is_given, {(to, Privilege.USAGE, on)})

    @rule(name=models, privilege=privileges, to=anybody, is_given=st.booleans())
    def grant(self, name: str, privilege: Privilege, to: str, is_given: bool) -> None:
        if name in self.plain.owners:
            self._change(Granted((privilege,), model(name)), to, is_given, {(to, privilege, model(name))})

    @rule(privilege=privileges, to=anybody, is_given=st.booleans())
    def grant_all(self, privilege: Privilege, to: str, is_given: bool) -> None:
        meant = {(to, privilege, model(name)) for name in self.plain.owners}
        self._change(Granted((privilege,), FUTURE, Scope.ALL), to, is_given, meant)

    @rule(privilege=privileges, to=anybody, is_given=st.booleans())
    def grant_future(self, privilege: Privilege, to: str, is_given: bool) -> None:
        self._change(Granted((privilege,), FUTURE, Scope.FUTURE), to, is_given, set())
        if to in self.plain.roles:
            (self.plain.future.add if is_given else self.plain.future.discard)((to, privilege))

    @precondition(lambda self: self.plain.owners)
    @rule(name=anybody, of=models)
    def ask(self, name: str, of: str) -> None:
        self._check(name, of)

    def teardown(self) -> None:
        for name in (*ROLES, PUBLIC, ADMIN_ROLE):
            for of in MODELS:
                self._check(name, of)
        with self.store.reading() as tx:
            left = tx.execute(sa.select(sa.func.count()).select_from(self.store.table("grants"))).scalar_one()
        assert left == 5 + len(self.plain.held) + len(self.plain.future), "no grant is left of what is gone"

    def _check(self, name: str, of: str) -> None:
        caller, about = Caller(account=ADMIN.account, user="u", role=name), QualifiedName("D", "S", of, of)
        told: dict[Privilege, Callable[[], object]] = {
            Privilege.USAGE: lambda: self.models.get(caller, about),
            Privilege.READ: lambda: self.versions.show(caller, about),
            Privilege.OWNERSHIP: lambda: self.versions.end_canary(caller, about),
        }
        for action, verb in told.items():
            expected = self.plain.may(name, action, of)
            raises(expected, verb) if expected else verb()
        is_listed = of in {each.model for each in self.models.show(caller)}
        assert is_listed == (self.plain.may(name, Privilege.USAGE, of) is None)

    def _change(self, granted: Granted, to: str, is_given: bool, meant: set[tuple[str, Privilege, Securable]]) -> None:
        verb = self.grants.grant if is_given else self.grants.revoke
        if self._there(to, lambda: verb(ADMIN, granted, to)):
            self.plain.held = self.plain.held | meant if is_given else self.plain.held - meant

    def _there(self, name: str, verb: Callable[[], object]) -> bool:
        """Does it to a role that is there; of one that is not it is told so."""
        if name in self.plain.roles:
            verb()
            return True
        raises(NotFound, verb)
        return False


def raises(kind: type[LuthierError], verb: Callable[[], object]) -> None:
    try:
        verb()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


TestGrants = GrantsMachine.TestCase
TestGrants.settings = hypothesis_settings(max_examples=40, stateful_step_count=40, deadline=None, print_blob=True)
