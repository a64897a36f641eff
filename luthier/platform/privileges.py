"""Who may do what: ONE table of actions, ONE function that decides. Pure.

A role holds grants, and all that the roles hold which were granted to it. ACCOUNTADMIN holds everything in its
account, but what the account's model list takes away, and the platform itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from luthier.platform.access import ADMIN_ROLE
from luthier.platform.names import quote_if_needed
from luthier.platform.securables import (
    ACCOUNT,
    AI_FUNCTIONS_USER,
    ALL_MODELS,
    CORTEX_REST_API_USER,
    CORTEX_USER,
    GIVEN_BY,
    IN_SCHEMA,
    MADE,
    OWNED,
    PLACES,
    PLATFORM,
    PUBLIC,
    ObjectKind,
    Privilege,
    Securable,
)


class Action(StrEnum):
    """Everything that somebody does. The value ends the sentence `... is needed to`."""

    READ_TABLE = "read the table"
    CREATE_TABLE = "create a table there"
    DROP_TABLE = "drop or replace the table"
    READ_VIEW = "read the view"
    INSPECT_VIEW = "see the secure view's query"
    CREATE_VIEW = "create a view there"
    DROP_VIEW = "drop or replace the view"
    FINETUNE = "fine-tune a model there"
    CALL_FINETUNE = "call FINETUNE"
    SEE_JOB = "see the job"
    CANCEL_JOB = "cancel the job"
    CONTINUE_JOB = "go on from the job"
    SEE_BATCH = "see the batch"
    CANCEL_BATCH = "cancel the batch"
    READ_FILE = "read the file"
    DELETE_FILE = "delete the file"
    MANAGE_KEY = "make, see or revoke the key"
    CREATE_MODEL = "create a model there"
    SEE_MODEL = "see the model"
    INSPECT_MODEL = "look into the model"
    COMPLETE = "ask the model"
    COMPLETE_BASE = "ask the base model"
    CALL_COMPLETE = "call COMPLETE"
    CALL_TRY_COMPLETE = "call TRY_COMPLETE"
    CALL_AI_COMPLETE = "call AI_COMPLETE"
    COUNT_TOKENS = "count tokens"
    CHANGE_MODEL = "change the model"
    DROP_MODEL = "drop the model"
    READ_ARTIFACTS = "read the model's artifacts"
    REPLICATE_MODEL = "replicate the model"
    CREATE_DATABASE = "create a database"
    CREATE_SCHEMA = "create a schema there"
    CREATE_ROLE = "create a role"
    CREATE_USER = "create a user"
    CREATE_SHARE = "create a share"
    IMPORT_SHARE = "use a share of another account"
    MANAGE = "change or drop it"
    GRANT = "grant privileges on it"
    MANAGE_GRANTS = "see and change all grants"
    ADMINISTER = "administer the account"
    READ_AUDIT = "read the audit"
    TAKE_ANY_ROLE = "take any role of the user's"
    READ_USAGE = "see what was used"
    SEE_USAGE = "see what others used"
    SEE_BALANCE = "see the account's credits"
    READ_HISTORY = "see what was changed"
    OPERATE = "do what concerns all accounts"


class Need(NamedTuple):
    privilege: Privilege
    on: Callable[[Securable], Securable]
    """Of what the action is done to."""
    or_else: tuple[tuple[Privilege, Securable], ...] = ()
    """Any of these does as well."""


def _itself(about: Securable) -> Securable:
    return about


def _database(about: Securable) -> Securable:
    return about.in_database


def _schema(about: Securable) -> Securable:
    return about.in_schema


def _always(on: Securable) -> Callable[[Securable], Securable]:
    return lambda _about: on


_OPEN = (Need(Privilege.USAGE, _database), Need(Privilege.USAGE, _schema))
_CORTEX = Need(Privilege.USAGE, _always(CORTEX_USER))
_CALLER = _CORTEX._replace(or_else=((Privilege.USAGE, AI_FUNCTIONS_USER),))
_ASKER = _CORTEX._replace(or_else=(*_CALLER.or_else, (Privilege.USAGE, CORTEX_REST_API_USER)))


def _uses(*functions: Privilege) -> Need:
    """One of them, or all that there are."""
    return Need(Privilege.USE_AI_FUNCTIONS, _always(ACCOUNT), tuple((each, ACCOUNT) for each in functions))


_ASKS = (_ASKER, _uses(Privilege.USE_COMPLETE, Privilege.USE_TRY_COMPLETE, Privilege.USE_AI_COMPLETE))
_TUNES = (_CORTEX, _uses(Privilege.USE_FINETUNE))
_OWNER = Need(Privilege.OWNERSHIP, _itself)

NEEDS: dict[Action, tuple[Need, ...]] = {
    Action.READ_TABLE: (*_OPEN, Need(Privilege.SELECT, _itself)),
    Action.CREATE_TABLE: (*_OPEN, Need(Privilege.CREATE_TABLE, _schema)),
    Action.DROP_TABLE: (*_OPEN, _OWNER),
    Action.READ_VIEW: (*_OPEN, Need(Privilege.SELECT, _itself)),
    Action.INSPECT_VIEW: (*_OPEN, _OWNER),
    Action.CREATE_VIEW: (*_OPEN, Need(Privilege.CREATE_VIEW, _schema)),
    Action.DROP_VIEW: (*_OPEN, _OWNER),
    Action.FINETUNE: (*_TUNES, Need(Privilege.USAGE, _database), Need(Privilege.CREATE_MODEL, _schema)),
    Action.CALL_FINETUNE: _TUNES,
    Action.SEE_JOB: (*_TUNES, _OWNER),
    Action.CANCEL_JOB: (_OWNER,),
    Action.CONTINUE_JOB: (*_TUNES, _OWNER),
    Action.SEE_BATCH: (_OWNER,),
    Action.CANCEL_BATCH: (_OWNER,),
    Action.READ_FILE: (_OWNER,),
    Action.DELETE_FILE: (_OWNER,),
    Action.MANAGE_KEY: (_OWNER,),
    Action.CREATE_MODEL: (*_OPEN, Need(Privilege.CREATE_MODEL, _schema)),
    Action.SEE_MODEL: (*_OPEN, Need(Privilege.USAGE, _itself)),
    Action.INSPECT_MODEL: (*_OPEN, Need(Privilege.READ, _itself)),
    Action.COMPLETE: (*_OPEN, Need(Privilege.USAGE, _itself), *_ASKS),
    Action.COMPLETE_BASE: (*_ASKS, Need(Privilege.USAGE, _itself)),
    Action.CALL_COMPLETE: (_CALLER, _uses(Privilege.USE_COMPLETE)),
    Action.CALL_TRY_COMPLETE: (_CALLER, _uses(Privilege.USE_TRY_COMPLETE)),
    Action.CALL_AI_COMPLETE: (_CALLER, _uses(Privilege.USE_AI_COMPLETE)),
    Action.COUNT_TOKENS: (_CALLER, _uses(Privilege.USE_COUNT_TOKENS)),
    Action.CHANGE_MODEL: (*_OPEN, _OWNER),
    Action.DROP_MODEL: (*_OPEN, _OWNER),
    Action.READ_ARTIFACTS: (*_OPEN, _OWNER),
    Action.REPLICATE_MODEL: (*_OPEN, _OWNER),
    Action.CREATE_DATABASE: (Need(Privilege.CREATE_DATABASE, _always(ACCOUNT)),),
    Action.CREATE_SCHEMA: (Need(Privilege.CREATE_SCHEMA, _database),),
    Action.CREATE_ROLE: (Need(Privilege.CREATE_ROLE, _always(ACCOUNT)),),
    Action.CREATE_USER: (Need(Privilege.CREATE_USER, _always(ACCOUNT)),),
    Action.CREATE_SHARE: (Need(Privilege.CREATE_SHARE, _always(ACCOUNT)),),
    Action.IMPORT_SHARE: (Need(Privilege.IMPORT_SHARE, _always(ACCOUNT)),),
    Action.MANAGE: (_OWNER,),
    Action.GRANT: (_OWNER,),
    Action.MANAGE_GRANTS: (Need(Privilege.MANAGE_GRANTS, _always(ACCOUNT)),),
    Action.ADMINISTER: (Need(Privilege.OWNERSHIP, _always(ACCOUNT)),),
    Action.READ_AUDIT: (Need(Privilege.OWNERSHIP, _always(ACCOUNT)),),
    Action.TAKE_ANY_ROLE: (Need(Privilege.OWNERSHIP, _always(ACCOUNT)),),
    Action.READ_USAGE: (_OWNER,),
    Action.READ_HISTORY: (_OWNER,),
    **dict.fromkeys((Action.SEE_USAGE, Action.SEE_BALANCE), (Need(Privilege.MONITOR_USAGE, _always(ACCOUNT)),)),
    Action.OPERATE: (Need(Privilege.OWNERSHIP, _always(PLATFORM)),),
}
OR_ELSE = {Action.GRANT: Action.MANAGE_GRANTS, Action.READ_USAGE: Action.SEE_USAGE}
"""Who may do the one may do the other."""


@dataclass(frozen=True)
class Rights:
    """What a caller holds by all his roles, as far as a question needs it."""

    roles: frozenset[str]
    held: Mapping[Securable, frozenset[Privilege]] = field(default_factory=dict)
    models: frozenset[str] | None = frozenset()
    """Base models that the account's list lets everybody ask; None: all."""
    is_operator: bool = False
    """Whether the account is the one that runs the platform."""
    user: str = ""
    """Who he is, where it is known."""

    @property
    def is_admin(self) -> bool:
        return ADMIN_ROLE in self.roles

    def has(self, privilege: Privilege, on: Securable) -> bool:
        if on.kind is ObjectKind.BASE_MODEL and privilege is Privilege.USAGE:
            return self.models is None or on.name in self.models or bool(self._on(on))
        if on.is_imported:  # it can be asked, and nothing else, by whoever it is
            return privilege is Privilege.USAGE and self._has_imported(on)
        if self.is_admin:
            return on.kind is not ObjectKind.PLATFORM or self.is_operator
        return not self._on(on).isdisjoint({privilege, Privilege.OWNERSHIP, *GIVEN_BY.get(privilege, ())})

    def sees(self, about: Securable) -> bool:
        """Whether it may be told to the caller that there is such an object."""
        if self.is_admin or about.kind not in (*OWNED, *MADE, *PLACES):
            return True
        if about.kind is ObjectKind.ROLE and about.name in self.roles:
            return True
        around = _OPEN if about.kind in IN_SCHEMA else _OPEN[:1] if about.kind is ObjectKind.SCHEMA else ()
        return all(self.has(each.privilege, each.on(about)) for each in around) and (
            about.is_imported or bool(self._on(about))
        )

    def _has_imported(self, on: Securable) -> bool:
        held = self.held.get(Securable(ObjectKind.DATABASE, on.database), frozenset())
        return self.is_admin or not held.isdisjoint({Privilege.IMPORTED, Privilege.OWNERSHIP})

    def _on(self, on: Securable) -> frozenset[Privilege]:
        held = self.held.get(on, frozenset())
        if on.kind is ObjectKind.BASE_MODEL:
            held |= self.held.get(Securable(ObjectKind.BASE_MODEL, name=ALL_MODELS), frozenset())
        return held | {Privilege.OWNERSHIP} if self._owns(on) else held

    def _owns(self, on: Securable) -> bool:
        if on.kind is ObjectKind.KEY or (on.kind in MADE and on.owner == PUBLIC):  # everybody has that role
            return bool(on.maker) and on.maker == self.user
        return bool(on.owner) and on.owner in self.roles


class Missing(NamedTuple):
    """Why somebody may not."""

    privilege: Privilege
    on: Securable
    is_hidden: bool
    """He may not even know that there is such an object."""

    def sentence(self, role: str, action: Action) -> str:
        """What is missing, and what gives it."""
        to = f"TO ROLE {quote_if_needed(role)}"
        if self.on.is_imported:
            return f"{self.on} is another account's, which shares it to be asked alone: nobody here may {action}."
        match self.on.kind:
            case ObjectKind.PLATFORM:
                return f"Only {ADMIN_ROLE} of the account that runs the platform may {action}."
            case ObjectKind.DATABASE_ROLE:
                needed, cure = f"DATABASE ROLE {self.on.dotted}", f"GRANT DATABASE ROLE {self.on.dotted} {to}"
            case kind if kind in MADE:
                needed, cure = f"The role that made {self.on}", f"GRANT ROLE {quote_if_needed(self.on.owner)} {to}"
            case ObjectKind.ACCOUNT if self.privilege is Privilege.OWNERSHIP:
                needed, cure = f"Role {ADMIN_ROLE}", f"GRANT ROLE {ADMIN_ROLE} {to}"
            case ObjectKind.BASE_MODEL:
                needed = f"{self.on}, which is not on the account's CORTEX_MODELS_ALLOWLIST,"
                cure = f"GRANT USAGE ON {self.on} {to}"
            case _:
                needed, cure = f"{self.privilege} ON {self.on}", f"GRANT {self.privilege} ON {self.on} {to}"
        return f"{needed} is needed to {action}, and role {role} does not have it. `{cure}` gives it."


def missing(action: Action, rights: Rights, about: Securable) -> Missing | None:
    """THE decision: what the caller lacks for an action, or None when he may. Nothing else decides."""
    lacks = [
        need
        for need in NEEDS[action]
        if not any(rights.has(*way) for way in ((need.privilege, need.on(about)), *need.or_else))
    ]
    if not lacks or (action in OR_ELSE and missing(OR_ELSE[action], rights, about) is None):
        return None
    return Missing(lacks[0].privilege, lacks[0].on(about), is_hidden=not rights.sees(about))


class Maker(NamedTuple):
    role: str
    """Empty: in whichever role."""
    user: str = ""
    """Empty: whoever it was."""


def makers(action: Action, rights: Rights, kind: ObjectKind) -> frozenset[Maker] | None:
    """The decision for a list of what was made, as a condition in the store: by whom one must be made for `missing` to
    find nothing; None: by whomever."""
    if missing(action, rights, Securable(kind)) is None:
        return None
    his = [Maker(role, rights.user if role == PUBLIC else "") for role in rights.roles]
    if kind is ObjectKind.KEY:
        his = [Maker("", rights.user)]
    return frozenset(
        each for each in his if missing(action, rights, Securable(kind, owner=each.role, maker=each.user)) is None
    )
