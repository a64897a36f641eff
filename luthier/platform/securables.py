"""What privileges are held on, and how it is written: kinds of objects, the privileges of each, names. Pure.

Names here are folded keys.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from luthier.errors import InvalidInput
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER
from luthier.platform.names import QualifiedName, fold, parse_name, parse_schema, quote_if_needed

PUBLIC = "PUBLIC"
"""The role that everybody has."""
SYSTEM_ROLES = (ADMIN_ROLE, PUBLIC)
ALL_MODELS = "*"
"""In the place of a base model's name: each of them."""


class Privilege(StrEnum):
    USAGE = "USAGE"
    SELECT = "SELECT"
    READ = "READ"
    CREATE_TABLE = "CREATE TABLE"
    CREATE_VIEW = "CREATE VIEW"
    CREATE_MODEL = "CREATE MODEL"
    CREATE_DATABASE = "CREATE DATABASE"
    CREATE_SCHEMA = "CREATE SCHEMA"
    CREATE_ROLE = "CREATE ROLE"
    CREATE_USER = "CREATE USER"
    CREATE_SHARE = "CREATE SHARE"
    IMPORT_SHARE = "IMPORT SHARE"
    MANAGE_GRANTS = "MANAGE GRANTS"
    MONITOR_USAGE = "MONITOR USAGE"
    USE_AI_FUNCTIONS = "USE AI FUNCTIONS"
    """All of the following."""
    USE_COMPLETE = "USE AI FUNCTION COMPLETE"
    USE_TRY_COMPLETE = "USE AI FUNCTION TRY_COMPLETE"
    USE_AI_COMPLETE = "USE AI FUNCTION AI_COMPLETE"
    USE_COUNT_TOKENS = "USE AI FUNCTION COUNT_TOKENS"
    USE_FINETUNE = "USE AI FUNCTION FINETUNE"
    IMPORTED = "IMPORTED PRIVILEGES"
    """On a database that was made of a share: all that the share gives."""
    OWNERSHIP = "OWNERSHIP"
    """Holds all others on the same object."""


class ObjectKind(StrEnum):
    ACCOUNT = "ACCOUNT"
    DATABASE = "DATABASE"
    SCHEMA = "SCHEMA"
    TABLE = "TABLE"
    VIEW = "VIEW"
    MODEL = "MODEL"
    ROLE = "ROLE"
    USER = "USER"
    DATABASE_ROLE = "DATABASE ROLE"
    SHARE = "SHARE"
    BASE_MODEL = "BASE MODEL"
    JOB = "JOB"
    BATCH = "BATCH"
    FILE = "FILE"
    KEY = "KEY"
    USAGE = "USAGE"
    """What was used."""
    HISTORY = "HISTORY"
    """What was changed of a model that is not there any more."""
    PLATFORM = "PLATFORM"
    """What all accounts stand on."""


GRANTABLE: dict[ObjectKind, tuple[Privilege, ...]] = {
    ObjectKind.ACCOUNT: (
        Privilege.CREATE_DATABASE,
        Privilege.CREATE_ROLE,
        Privilege.CREATE_USER,
        Privilege.CREATE_SHARE,
        Privilege.IMPORT_SHARE,
        Privilege.MANAGE_GRANTS,
        Privilege.MONITOR_USAGE,
        Privilege.USE_AI_FUNCTIONS,
        Privilege.USE_COMPLETE,
        Privilege.USE_TRY_COMPLETE,
        Privilege.USE_AI_COMPLETE,
        Privilege.USE_COUNT_TOKENS,
        Privilege.USE_FINETUNE,
    ),
    ObjectKind.DATABASE: (Privilege.USAGE, Privilege.CREATE_SCHEMA, Privilege.IMPORTED, Privilege.OWNERSHIP),
    ObjectKind.SCHEMA: (
        Privilege.USAGE,
        Privilege.CREATE_TABLE,
        Privilege.CREATE_VIEW,
        Privilege.CREATE_MODEL,
        Privilege.OWNERSHIP,
    ),
    ObjectKind.TABLE: (Privilege.SELECT, Privilege.OWNERSHIP),
    ObjectKind.VIEW: (Privilege.SELECT, Privilege.OWNERSHIP),
    ObjectKind.MODEL: (Privilege.USAGE, Privilege.READ, Privilege.OWNERSHIP),
    ObjectKind.ROLE: (Privilege.OWNERSHIP,),
    ObjectKind.USER: (Privilege.OWNERSHIP,),
    ObjectKind.SHARE: (Privilege.OWNERSHIP,),
    ObjectKind.DATABASE_ROLE: (Privilege.USAGE,),
    ObjectKind.BASE_MODEL: (Privilege.USAGE,),
}
GIVEN_BY = {Privilege.USAGE: (Privilege.READ,)}
"""Who may look into a model may ask it."""
IN_SCHEMA = (ObjectKind.TABLE, ObjectKind.VIEW, ObjectKind.MODEL)
OWNED = (*IN_SCHEMA, ObjectKind.ROLE, ObjectKind.USER, ObjectKind.SHARE)
"""Each has one owner, a role, from its first moment on; on databases and schemas OWNERSHIP is a grant as any other."""
MADE = (ObjectKind.JOB, ObjectKind.BATCH, ObjectKind.FILE, ObjectKind.KEY, ObjectKind.USAGE, ObjectKind.HISTORY)
"""Nothing is granted on these: the role that made one owns it, or the user: a key, and what was made as PUBLIC."""
RECORDED = (ObjectKind.USAGE, ObjectKind.HISTORY)
"""Of these, what a role has begins with it: records stay as they are, and pass on to nobody when a role is dropped."""
PLACES = (ObjectKind.DATABASE, ObjectKind.SCHEMA)


@dataclass(frozen=True)
class Securable:
    """What privileges are held on. Two are equal when they name the same, whoever owns it."""

    kind: ObjectKind
    database: str = ""
    schema: str = ""
    name: str = ""
    owner: str = field(default="", compare=False)
    """The role that owns it, where it is known."""
    maker: str = field(default="", compare=False)
    """The user who made it, or whose key it is, where that matters."""
    is_imported: bool = field(default=False, compare=False)
    """It is another account's, in a database that was made of a share."""

    @classmethod
    def named(cls, kind: ObjectKind, name: QualifiedName) -> "Securable":
        return cls(kind, *name.parts)

    @property
    def in_database(self) -> "Securable":
        return Securable(ObjectKind.DATABASE, self.database, is_imported=self.is_imported)

    @property
    def in_schema(self) -> "Securable":
        return Securable(ObjectKind.SCHEMA, self.database, self.schema, is_imported=self.is_imported)

    @property
    def dotted(self) -> str:
        """As it is written behind its kind; empty for an account."""
        return ".".join(quote_if_needed(part) for part in (self.database, self.schema, self.name) if part)

    def __str__(self) -> str:
        return f"{self.kind} {self.dotted}".strip()


ACCOUNT = Securable(ObjectKind.ACCOUNT)
PLATFORM = Securable(ObjectKind.PLATFORM)
CORTEX_USER = Securable(ObjectKind.DATABASE_ROLE, "SNOWFLAKE", name="CORTEX_USER")
"""May call the functions of SNOWFLAKE.CORTEX and complete by HTTP."""
AI_FUNCTIONS_USER = Securable(ObjectKind.DATABASE_ROLE, "SNOWFLAKE", name="AI_FUNCTIONS_USER")
"""The same without FINETUNE."""
CORTEX_REST_API_USER = Securable(ObjectKind.DATABASE_ROLE, "SNOWFLAKE", name="CORTEX_REST_API_USER")
"""May complete by HTTP, and call no function."""
DATABASE_ROLES = (CORTEX_USER, AI_FUNCTIONS_USER, CORTEX_REST_API_USER)
FIRST_GRANTS = ((Privilege.USAGE, CORTEX_USER), (Privilege.USE_AI_FUNCTIONS, ACCOUNT))
"""To PUBLIC in a new account; they can be revoked."""


SHARED_SCHEMA = "PUBLIC"
"""Each database begins with it."""
HOME = Securable(ObjectKind.SCHEMA, "LUTHIER", SHARED_SCHEMA)
"""Where every account may begin, unless the settings name another place."""
INFORMATION_SCHEMA = "INFORMATION_SCHEMA"
RESERVED = ("SNOWFLAKE", INFORMATION_SCHEMA)
"""The platform's own databases and schemas."""
ENGINE_OWN = ("SYSTEM", "TEMP", "MEMORY", "PG_CATALOG")
"""The SQL engine's."""


def is_taken(place: str) -> bool:
    """A database or schema of no account; the SQL engine finds names in any case."""
    return place.upper() in (*RESERVED, *ENGINE_OWN)


def check_grantable(kind: ObjectKind, privileges: tuple[Privilege, ...]) -> None:
    """InvalidInput for a privilege that the kind of object does not have."""
    for privilege in privileges:
        if privilege not in GRANTABLE.get(kind, ()):
            raise InvalidInput(f"{privilege} is no privilege on a {kind}: there are {_listed(kind)}.")


class Scope(StrEnum):
    """Which objects a grant is on."""

    ONE = "ONE"
    ALL = "ALL"
    """Those of a kind that are in a schema now."""
    FUTURE = "FUTURE"
    """Those of a kind that will be made in a schema."""


class Granted(NamedTuple):
    """What is granted or revoked. Of ALL and FUTURE, `on` has no name."""

    privileges: tuple[Privilege, ...]
    on: Securable
    scope: Scope = Scope.ONE
    ends_others: bool = False
    """Of OWNERSHIP: what was granted on it ends."""

    @property
    def is_ownership(self) -> bool:
        return Privilege.OWNERSHIP in self.privileges


def all_privileges(kind: ObjectKind) -> tuple[Privilege, ...]:
    """ALL PRIVILEGES: OWNERSHIP is none of them, nor what a share gives."""
    return tuple(each for each in GRANTABLE.get(kind, ()) if each not in (Privilege.OWNERSHIP, Privilege.IMPORTED))


def parse_privileges(kind: ObjectKind, written: Iterable[str]) -> tuple[Privilege, ...]:
    """ALL is all but OWNERSHIP."""
    found: list[Privilege] = []
    for text in (" ".join(each.upper().split()) for each in written):
        if text in ("ALL", "ALL PRIVILEGES"):
            found += all_privileges(kind)
        elif text in list(Privilege):
            found.append(Privilege(text))
        else:
            raise InvalidInput(f"There is no privilege {text!r}: on a {kind} there are {_listed(kind)}.")
    check_grantable(kind, tuple(found))
    return tuple(dict.fromkeys(found))


def parse_securable(kind: ObjectKind, text: str, default_database: str, default_schema: str) -> Securable:
    """The object that is meant by its name as written."""
    match kind:
        case ObjectKind.ACCOUNT | ObjectKind.PLATFORM:
            return Securable(kind)
        case ObjectKind.DATABASE:
            return Securable(kind, fold(text.strip()))
        case ObjectKind.SCHEMA:
            return Securable(kind, *parse_schema(text, default_database))
        case ObjectKind.ROLE | ObjectKind.SHARE:
            return Securable(kind, name=role_key(text))
        case ObjectKind.USER:
            return Securable(kind, name=user_key(text))
        case ObjectKind.DATABASE_ROLE:
            database, role = parse_schema(text, default_database)
            return Securable(kind, database, name=role)
        case ObjectKind.BASE_MODEL:
            name = text.strip().strip('"')
            return Securable(kind, name=ALL_MODELS if name.upper() == "ALL" else name)
    return Securable.named(kind, parse_name(text, default_database, default_schema))


def parse_in_schema(kind: ObjectKind, schema: str, default_database: str) -> Securable:
    """What stands for the objects of a kind in a schema."""
    return Securable(kind, *parse_schema(schema, default_database))


def user_key(text: str) -> str:
    """The key of a user's name as written. The first user of an account is called `admin`, in any case of these letters
    (a dotless i is another one, with the same upper case).
    """
    key = fold(text.strip())
    return ADMIN_USER if key.isascii() and key.upper() == ADMIN_USER.upper() else key


def _listed(kind: ObjectKind) -> str:
    return ", ".join(GRANTABLE.get(kind, ())) or "none"


def role_key(text: str) -> str:
    return fold(text.strip())
