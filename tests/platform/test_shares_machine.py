"""Shares of two accounts used by a third, in any order, beside sets that say in the plainest way what it reaches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from luthier.errors import Conflict, NotAllowed, NotFound
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import ImportedModel
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.privileges import Action
from luthier.platform.registry.access import Access
from luthier.platform.registry.grants import Grants
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.models import Models
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.registry.roles import Roles
from luthier.platform.registry.shares import Shares
from luthier.platform.registry.versions import Versions
from luthier.platform.securables import Granted, ObjectKind, Privilege, Securable
from luthier.platform.tasks import TaskType
from tests.machines import Bench, Length, Machine, Watched
from tests.platform.test_grants_machine import raises

PROVIDERS, CONSUMER, ROLE = ("one", "two"), "three", "R"
MADE = ImportedModel(base_model="tiny", path="p", sha256="ab", rank=8, task_type=TaskType.CHAT_COMPLETION, created_on=1)
LOOKING = (Action.INSPECT_MODEL, Action.READ_ARTIFACTS, Action.CHANGE_MODEL, Action.DROP_MODEL)

providers, models, databases = st.sampled_from(PROVIDERS), st.sampled_from(("M", "N")), st.sampled_from(("X", "Y"))
shares = st.sampled_from(("S", "T"))
kinds = st.sampled_from((ObjectKind.DATABASE, ObjectKind.SCHEMA, ObjectKind.MODEL))


@dataclass
class Plain:
    """By sets. A share is known by the number that it was the how-manieth."""

    models: set[tuple[str, str]] = field(default_factory=set)
    """(account, name)."""
    shares: dict[tuple[str, str], int] = field(default_factory=dict)
    given: set[tuple[int, ObjectKind, str]] = field(default_factory=set)
    open: set[int] = field(default_factory=set)
    made: dict[str, int] = field(default_factory=dict)
    """Databases of the consumer."""
    imported: set[str] = field(default_factory=set)
    """Those on which the role holds the privileges."""
    num_shares: int = 0

    def reached(self) -> dict[str, tuple[str, str]]:
        """By the names that the consumer has for them: whose model it is."""
        numbers = {number: account for (account, _), number in self.shares.items()}
        found = {}
        for database, number in self.made.items():
            whole = {(number, ObjectKind.DATABASE, ""), (number, ObjectKind.SCHEMA, "")} <= self.given
            if number in numbers and number in self.open and whole:
                account = numbers[number]
                for name in [name for owner, name in self.models if owner == account]:
                    if (number, ObjectKind.MODEL, name) in self.given:
                        found[f"{database}.S.{name}"] = (account, name)
        return found


class SharesMachine(Machine):
    def __init__(self, store: Watched) -> None:
        super().__init__(store)
        guard = Guard(store)
        access = Access(store, guard)
        for number, account in enumerate((*PROVIDERS, CONSUMER)):
            access.add_admin_key(account, f"hash{number}", "lt_")
        roles = Roles(store, guard, access, lambda: 1)
        self.grants = Grants(store, guard, roles, Catalog({}), lambda: 1)
        self.shares = Shares(store, guard, self.grants, lambda: 1)
        self.models, self.versions = Models(store, lambda: 1), Versions(store, lambda: 1)
        with store.transaction() as tx:
            for account in PROVIDERS:
                PlaceRows(store).add_home(tx, account, Securable(ObjectKind.SCHEMA, "D", "S"), 1)
        roles.create(admin(CONSUMER), ROLE)
        self.plain = Plain()

    @rule(account=providers, name=models)
    def make(self, account: str, name: str) -> None:
        if (account, name) not in self.plain.models:
            self.models.import_model(admin(account), own(name), MADE)
            self.plain.models.add((account, name))

    @rule(account=providers, name=models)
    def drop_model(self, account: str, name: str) -> None:
        if (account, name) in self.plain.models:
            self.models.drop(admin(account), own(name))
            self.plain.models.remove((account, name))
            numbers = {number for (owner, _), number in self.plain.shares.items() if owner == account}
            self.plain.given -= {(number, ObjectKind.MODEL, name) for number in numbers}

    @rule(account=providers, name=shares)
    def create(self, account: str, name: str) -> None:
        is_new = self.shares.create(admin(account), name)
        assert is_new == ((account, name) not in self.plain.shares)
        if is_new:
            self.plain.num_shares += 1
            self.plain.shares[account, name] = self.plain.num_shares

    @rule(account=providers, name=shares)
    def drop(self, account: str, name: str) -> None:
        if self._there(account, name, lambda: self.shares.drop(admin(account), name)):
            self.plain.shares.pop((account, name))

    @rule(account=providers, name=shares, is_open=st.booleans())
    def open(self, account: str, name: str, is_open: bool) -> None:
        verb = self.shares.add_accounts if is_open else self.shares.remove_accounts
        if number := self._there(account, name, lambda: verb(admin(account), name, [CONSUMER])):
            self.plain.open = self.plain.open | {number} if is_open else self.plain.open - {number}

    @rule(account=providers, name=shares, kind=kinds, model=models)
    def grant(self, account: str, name: str, kind: ObjectKind, model: str) -> None:
        granted = Granted((Privilege.USAGE,), place(kind, model))
        number = self.plain.shares.get((account, name))
        has_model = kind is not ObjectKind.MODEL or (account, model) in self.plain.models
        if number is None or not has_model:
            raises(NotFound, lambda: self.shares.grant(admin(account), granted, name))
        elif kind is not ObjectKind.DATABASE and (number, ObjectKind.DATABASE, "") not in self.plain.given:
            raises(Conflict, lambda: self.shares.grant(admin(account), granted, name))
        else:
            self.shares.grant(admin(account), granted, name)
            self.plain.given.add((number, kind, model if kind is ObjectKind.MODEL else ""))

    @rule(account=providers, name=shares, kind=kinds, model=models)
    def revoke(self, account: str, name: str, kind: ObjectKind, model: str) -> None:
        granted = Granted((Privilege.USAGE,), place(kind, model))
        if kind is ObjectKind.MODEL and (account, model) not in self.plain.models:
            raises(NotFound, lambda: self.shares.revoke(admin(account), granted, name))
            return
        if number := self._there(account, name, lambda: self.shares.revoke(admin(account), granted, name)):
            its = (number, kind, model if kind is ObjectKind.MODEL else "")
            gone = {
                each for each in self.plain.given if each == its or (kind is ObjectKind.DATABASE and each[0] == number)
            }
            self.plain.given -= gone

    @rule(database=databases, account=providers, name=shares)
    def use(self, database: str, account: str, name: str) -> None:
        def verb() -> bool:
            return self.shares.import_database(admin(CONSUMER), database, account, name)

        number, made = self.plain.shares.get((account, name)), self.plain.made
        if number not in self.plain.open or number is None:
            raises(NotFound, verb)
        elif made.get(database) == number:
            assert not verb()
        elif database in made or number in made.values():
            raises(Conflict, verb)
        else:
            assert verb()
            made[database] = number

    @rule(database=databases)
    def leave(self, database: str) -> None:
        if database not in self.plain.made:
            raises(NotFound, lambda: self.shares.drop_database(admin(CONSUMER), database))
            return
        self.shares.drop_database(admin(CONSUMER), database)
        self.plain.made.pop(database)
        self.plain.imported.discard(database)

    @rule(database=databases, is_given=st.booleans())
    def imported(self, database: str, is_given: bool) -> None:
        if database in self.plain.made:
            granted = Granted((Privilege.IMPORTED,), Securable(ObjectKind.DATABASE, database))
            (self.grants.grant if is_given else self.grants.revoke)(admin(CONSUMER), granted, ROLE)
            self.plain.imported = self.plain.imported | {database} if is_given else self.plain.imported - {database}

    @invariant()
    def it_reaches_what_it_is_given_and_no_more(self) -> None:
        self.looked_up(self._check_all)

    def teardown(self) -> None:
        self._check_all()

    def _check_all(self) -> None:
        reached = self.plain.reached()
        member = Caller(account=CONSUMER, user="u", role=ROLE)
        his = {name for name in reached if name.partition(".")[0] in self.plain.imported}
        for caller, meant in ((admin(CONSUMER), set(reached)), (member, his)):
            assert {model.model for model in self.models.show(caller)} == meant
            for name in (f"{database}.S.{model}" for database in ("X", "Y") for model in ("M", "N")):
                self._check(caller, name, reached.get(name) if name in meant else None)

    def _check(self, caller: Caller, name: str, whose: tuple[str, str] | None) -> None:
        about = parse_name(name, "", "")
        if whose is None:
            raises(NotFound, lambda: self.versions.serving(caller, about))
            return
        account, model = whose
        assert self.versions.serving(caller, about).default.origin == f"{account}.D.S.{model}"
        for action in LOOKING:
            raises(NotAllowed, partial(self.models.get, caller, about, to=action))

    def _there(self, account: str, name: str, verb: Callable[[], object]) -> int | None:
        """Does it to a share that is there, and gives its number; of one that is not it is told so."""
        number = self.plain.shares.get((account, name))
        if number is None:
            raises(NotFound, verb)
        else:
            verb()
        return number


def admin(account: str) -> Caller:
    return Caller(account=account, user=ADMIN_USER, role=ADMIN_ROLE)


def own(name: str) -> QualifiedName:
    return QualifiedName("D", "S", name, f"D.S.{name}")


def place(kind: ObjectKind, model: str) -> Securable:
    about = Securable.named(ObjectKind.MODEL, own(model))
    return {ObjectKind.DATABASE: about.in_database, ObjectKind.SCHEMA: about.in_schema}.get(kind, about)


def test_shares(bench: Bench) -> None:
    bench.run(SharesMachine, Length(8, 100, at_least=400), Length(2, 60, at_least=50))
