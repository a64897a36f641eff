"""The table of actions, and the one function that decides by it."""

import pytest

from luthier.errors import InvalidInput
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER
from luthier.platform.privileges import NEEDS, Action, Maker, Rights, makers, missing
from luthier.platform.securables import (
    ACCOUNT,
    AI_FUNCTIONS_USER,
    CORTEX_REST_API_USER,
    CORTEX_USER,
    GRANTABLE,
    MADE,
    PLATFORM,
    ObjectKind,
    Privilege,
    Securable,
    check_grantable,
    parse_privileges,
    parse_securable,
    user_key,
)

MODEL = Securable(ObjectKind.MODEL, "D", "S", "M", owner="OWNER")
TABLE = Securable(ObjectKind.TABLE, "D", "S", "T", owner="OWNER")
VIEW = Securable(ObjectKind.VIEW, "D", "S", "V", owner="OWNER")
BASE = Securable(ObjectKind.BASE_MODEL, name="tiny")
JOB = Securable(ObjectKind.JOB, name="ft_1", owner="OWNER")
USED = Securable(ObjectKind.USAGE, owner="OWNER")
DATABASE, SCHEMA = MODEL.in_database, MODEL.in_schema
OPEN = {DATABASE: {Privilege.USAGE}, SCHEMA: {Privilege.USAGE}}
AI = {ACCOUNT: {Privilege.USE_AI_FUNCTIONS}}
CORTEX = {CORTEX_USER: {Privilege.USAGE}, **AI}
ABOUT = {
    Action.READ_TABLE: TABLE,
    Action.DROP_TABLE: TABLE,
    Action.CREATE_TABLE: SCHEMA,
    Action.READ_VIEW: VIEW,
    Action.INSPECT_VIEW: VIEW,
    Action.DROP_VIEW: VIEW,
    Action.CREATE_VIEW: SCHEMA,
    Action.CREATE_MODEL: SCHEMA,
    Action.FINETUNE: SCHEMA,
    Action.CREATE_SCHEMA: SCHEMA,
    Action.COMPLETE_BASE: BASE,
    Action.OPERATE: PLATFORM,
    **dict.fromkeys((Action.SEE_JOB, Action.CANCEL_JOB, Action.CONTINUE_JOB), JOB),
    **dict.fromkeys((Action.SEE_BATCH, Action.CANCEL_BATCH), Securable(ObjectKind.BATCH, name="b", owner="OWNER")),
    **dict.fromkeys((Action.READ_FILE, Action.DELETE_FILE), Securable(ObjectKind.FILE, name="f", owner="OWNER")),
    Action.MANAGE_KEY: Securable(ObjectKind.KEY, name="k", owner="OWNER"),
    Action.READ_USAGE: USED,
    Action.READ_HISTORY: Securable(ObjectKind.HISTORY, owner="OWNER"),
    **dict.fromkeys(
        (
            Action.COUNT_TOKENS,
            Action.CALL_FINETUNE,
            Action.CALL_COMPLETE,
            Action.CALL_TRY_COMPLETE,
            Action.CALL_AI_COMPLETE,
            Action.CREATE_DATABASE,
            Action.CREATE_ROLE,
            Action.CREATE_USER,
            Action.MANAGE_GRANTS,
            Action.ADMINISTER,
            Action.READ_AUDIT,
            Action.TAKE_ANY_ROLE,
        ),
        ACCOUNT,
    ),
    **dict.fromkeys((Action.SEE_USAGE, Action.SEE_BALANCE, Action.CREATE_SHARE, Action.IMPORT_SHARE), ACCOUNT),
}


def rights(held: dict[Securable, set[Privilege]], *roles: str, **given: object) -> Rights:
    return Rights(frozenset(roles or ("R",)), {on: frozenset(each) for on, each in held.items()}, **given)


@pytest.mark.parametrize("action", Action)
def test_who_holds_nothing_may_nothing(action: Action) -> None:
    lacks = missing(action, rights({}), ABOUT.get(action, MODEL))
    assert lacks is not None
    told = lacks.sentence("R", action)
    assert str(action) in told
    assert action is Action.OPERATE or "GRANT " in told


@pytest.mark.parametrize("action", Action)
def test_each_need_is_needed(action: Action) -> None:
    about = ABOUT.get(action, MODEL)
    all_held: dict[Securable, set[Privilege]] = {}
    for need in NEEDS[action]:
        all_held.setdefault(need.on(about), set()).add(need.privilege)
    if action is not Action.OPERATE:
        assert missing(action, rights(all_held), about) is None
    for need in NEEDS[action]:
        held = {on: set(each) for on, each in all_held.items()}
        held[need.on(about)].discard(need.privilege)
        lacks = missing(action, rights(held), about)
        assert lacks is not None, need
        assert (lacks.privilege, lacks.on) == (need.privilege, need.on(about))


@pytest.mark.parametrize("action", [each for each in Action if each not in (Action.OPERATE, Action.COMPLETE_BASE)])
def test_accountadmin_may_everything_in_the_account(action: Action) -> None:
    assert missing(action, rights({}, ADMIN_ROLE), ABOUT.get(action, MODEL)) is None


def test_what_accountadmin_may_not_by_office() -> None:
    assert missing(Action.OPERATE, rights({}, ADMIN_ROLE), PLATFORM) is not None
    assert missing(Action.OPERATE, rights({}, ADMIN_ROLE, is_operator=True), PLATFORM) is None
    assert missing(Action.OPERATE, rights({}, "R", is_operator=True), PLATFORM) is not None
    assert missing(Action.COMPLETE_BASE, rights({}, ADMIN_ROLE), BASE) is not None, "the account's list says none"
    assert missing(Action.COMPLETE_BASE, rights({}, ADMIN_ROLE, models=frozenset({"tiny"})), BASE) is None
    assert missing(Action.COMPLETE_BASE, rights({}, ADMIN_ROLE, models=None), BASE) is None


def test_the_list_of_models_is_no_right_to_complete() -> None:
    lacks = missing(Action.COMPLETE_BASE, rights({}, models=None), BASE)
    assert lacks is not None
    assert lacks.on == CORTEX_USER
    assert missing(Action.COMPLETE_BASE, rights(CORTEX, models=None), BASE) is None


def test_ai_functions_user_may_ask_and_not_tune() -> None:
    held = {**OPEN, **AI, AI_FUNCTIONS_USER: {Privilege.USAGE}, SCHEMA: {Privilege.CREATE_MODEL, Privilege.USAGE}}
    assert missing(Action.COMPLETE_BASE, rights(held, models=None), BASE) is None
    assert missing(Action.COUNT_TOKENS, rights(held), ACCOUNT) is None
    lacks = missing(Action.FINETUNE, rights(held), SCHEMA)
    assert lacks is not None
    assert lacks.on == CORTEX_USER


def test_who_completes_by_http_alone_calls_no_function() -> None:
    held = {**OPEN, **AI, CORTEX_REST_API_USER: {Privilege.USAGE}, MODEL: {Privilege.USAGE}}
    assert missing(Action.COMPLETE_BASE, rights(held, models=None), BASE) is None
    assert missing(Action.COMPLETE, rights(held), MODEL) is None
    for action in (Action.CALL_COMPLETE, Action.CALL_AI_COMPLETE, Action.COUNT_TOKENS, Action.CALL_FINETUNE):
        lacks = missing(action, rights(held), ACCOUNT)
        assert lacks is not None
        assert lacks.on == CORTEX_USER


def test_one_function_alone() -> None:
    held = {CORTEX_USER: {Privilege.USAGE}, ACCOUNT: {Privilege.USE_TRY_COMPLETE}}
    assert missing(Action.CALL_TRY_COMPLETE, rights(held), ACCOUNT) is None
    assert missing(Action.COMPLETE_BASE, rights(held, models=None), BASE) is None
    for action in (Action.CALL_COMPLETE, Action.CALL_AI_COMPLETE, Action.COUNT_TOKENS, Action.CALL_FINETUNE):
        lacks = missing(action, rights(held), ACCOUNT)
        assert lacks is not None
        assert lacks.privilege is Privilege.USE_AI_FUNCTIONS
    held = {CORTEX_USER: {Privilege.USAGE}, ACCOUNT: {Privilege.USE_FINETUNE, Privilege.USE_COUNT_TOKENS}}
    assert missing(Action.CALL_FINETUNE, rights(held), ACCOUNT) is None
    assert missing(Action.COUNT_TOKENS, rights(held), ACCOUNT) is None
    assert missing(Action.COMPLETE_BASE, rights(held, models=None), BASE) is not None


@pytest.mark.parametrize("action", [Action.FINETUNE, Action.COMPLETE, Action.COMPLETE_BASE, Action.COUNT_TOKENS])
def test_the_database_role_alone_does_not_do(action: Action) -> None:
    lacks = missing(action, rights({**OPEN, CORTEX_USER: {Privilege.USAGE}}, models=None), ABOUT.get(action, MODEL))
    assert lacks is not None
    assert lacks.privilege in (Privilege.USE_AI_FUNCTIONS, Privilege.USAGE)


@pytest.mark.parametrize("own", [{Privilege.USAGE}, {Privilege.READ}, {Privilege.OWNERSHIP}])
def test_inference_takes_usage_or_read_or_ownership(own: set[Privilege]) -> None:
    held = {**OPEN, **CORTEX, MODEL: own}
    assert missing(Action.COMPLETE, rights(held), MODEL) is None
    may_look = missing(Action.INSPECT_MODEL, rights(held), MODEL) is None
    assert may_look == (own != {Privilege.USAGE})
    assert (missing(Action.READ_ARTIFACTS, rights(held), MODEL) is None) == (own == {Privilege.OWNERSHIP})


def test_the_owning_role_owns() -> None:
    assert missing(Action.DROP_MODEL, rights(OPEN, "OWNER"), MODEL) is None
    lacks = missing(Action.DROP_MODEL, rights(OPEN, "R"), MODEL)
    assert lacks is not None
    assert lacks.is_hidden


def test_a_job_is_its_roles_who_may_fine_tune() -> None:
    assert missing(Action.CANCEL_JOB, rights({}, "OWNER"), JOB) is None, "it spends nothing"
    for action in (Action.SEE_JOB, Action.CONTINUE_JOB):
        assert missing(action, rights(CORTEX, "OWNER"), JOB) is None
        others, without = missing(action, rights(CORTEX, "R"), JOB), missing(action, rights({}, "OWNER"), JOB)
        assert others is not None
        assert without is not None
        assert (others.is_hidden, without.is_hidden, without.on) == (True, False, CORTEX_USER)


def test_a_list_is_of_what_one_may_see_each_of() -> None:
    both, monitor = rights(CORTEX, "OWNER", "R"), {ACCOUNT: {Privilege.MONITOR_USAGE}}
    assert makers(Action.SEE_JOB, both, ObjectKind.JOB) == frozenset({Maker("OWNER"), Maker("R")})
    assert makers(Action.SEE_JOB, rights(AI, "OWNER"), ObjectKind.JOB) == frozenset()
    assert makers(Action.SEE_JOB, rights({}, ADMIN_ROLE), ObjectKind.JOB) is None
    assert makers(Action.READ_USAGE, rights({}, "R"), ObjectKind.USAGE) == frozenset({Maker("R")})
    assert makers(Action.READ_FILE, rights({}, "R", "PUBLIC", user="ANN"), ObjectKind.FILE) == frozenset(
        {Maker("R"), Maker("PUBLIC", "ANN")}
    )
    assert makers(Action.READ_USAGE, rights(monitor, "R"), ObjectKind.USAGE) is None
    assert missing(Action.READ_USAGE, rights(monitor, "R"), USED) is None


@pytest.mark.parametrize("kind", MADE)
def test_what_public_made_is_its_users(kind: ObjectKind) -> None:
    anns, nobodys = (Securable(kind, name="x", owner="PUBLIC", maker=maker) for maker in ("ANN", ""))
    for user, roles, its, may in (
        ("ANN", ("PUBLIC",), anns, True),
        ("ANN", ("R", "PUBLIC"), anns, True),
        ("BOB", ("R", "PUBLIC"), anns, False),
        ("", ("PUBLIC",), nobodys, False),
        ("BOB", (ADMIN_ROLE, "PUBLIC"), anns, True),
    ):
        lacks = missing(Action.READ_FILE, rights({}, *roles, user=user), its)
        assert lacks is None if may else lacks is not None and lacks.is_hidden
    table = Securable(ObjectKind.TABLE, "D", "S", "T", owner="PUBLIC", maker="ANN")
    assert missing(Action.DROP_TABLE, rights(OPEN, "PUBLIC", user="BOB"), table) is None, "it lies in a schema"


def test_a_key_is_its_users_in_whichever_role() -> None:
    anns = Securable(ObjectKind.KEY, name="k", owner="R", maker="ANN")
    assert missing(Action.MANAGE_KEY, rights({}, "S", user="ANN"), anns) is None
    assert missing(Action.MANAGE_KEY, rights({}, "R", user="BOB"), anns) is not None, "its role is not enough"
    assert missing(Action.MANAGE_KEY, rights({}, ADMIN_ROLE, user="BOB"), anns) is None
    assert makers(Action.MANAGE_KEY, rights({}, "R", "S", user="ANN"), ObjectKind.KEY) == frozenset({Maker("", "ANN")})


def test_what_is_seen_and_what_is_hidden() -> None:
    for held, is_hidden in (
        (OPEN, True),
        ({MODEL: {Privilege.USAGE}}, True),
        ({**OPEN, MODEL: {Privilege.USAGE}}, False),
    ):
        lacks = missing(Action.CHANGE_MODEL, rights(held), MODEL)
        assert lacks is not None
        assert lacks.is_hidden == is_hidden


def test_finetune_asks_for_what_it_should() -> None:
    held = {**CORTEX, DATABASE: {Privilege.USAGE}, SCHEMA: {Privilege.CREATE_MODEL}}
    assert missing(Action.FINETUNE, rights(held), SCHEMA) is None
    assert missing(Action.FINETUNE, rights({**held, SCHEMA: {Privilege.OWNERSHIP}}), SCHEMA) is None
    assert missing(Action.FINETUNE, rights({**held, SCHEMA: {Privilege.USAGE}}), SCHEMA) is not None
    assert missing(Action.FINETUNE, rights({**held, DATABASE: set()}), SCHEMA) is not None


def test_manage_grants_is_as_good_as_ownership_for_granting() -> None:
    assert missing(Action.GRANT, rights({ACCOUNT: {Privilege.MANAGE_GRANTS}}), MODEL) is None
    assert missing(Action.CHANGE_MODEL, rights({ACCOUNT: {Privilege.MANAGE_GRANTS}}), MODEL) is not None


def test_privileges_as_they_are_written() -> None:
    assert parse_privileges(ObjectKind.SCHEMA, ["usage", " create \n model "]) == (
        Privilege.USAGE,
        Privilege.CREATE_MODEL,
    )
    assert parse_privileges(ObjectKind.MODEL, ["all privileges"]) == (Privilege.USAGE, Privilege.READ)
    with pytest.raises(InvalidInput, match="no privilege 'FLY': on a MODEL there are USAGE, READ, OWNERSHIP"):
        parse_privileges(ObjectKind.MODEL, ["FLY"])
    with pytest.raises(InvalidInput, match="SELECT is no privilege on a MODEL"):
        check_grantable(ObjectKind.MODEL, (Privilege.SELECT,))


@pytest.mark.parametrize(
    ("kind", "written", "dotted"),
    [
        (ObjectKind.DATABASE, "luthier", "LUTHIER"),
        (ObjectKind.SCHEMA, "s", "D.S"),
        (ObjectKind.SCHEMA, 'x."s"', 'X."s"'),
        (ObjectKind.MODEL, "m", "D.S.M"),
        (ObjectKind.TABLE, "a.b.c", "A.B.C"),
        (ObjectKind.ROLE, "analyst", "ANALYST"),
        (ObjectKind.USER, "Admin", '"admin"'),
        (ObjectKind.DATABASE_ROLE, "snowflake.cortex_user", "SNOWFLAKE.CORTEX_USER"),
        (ObjectKind.BASE_MODEL, '"smollm2-135m"', '"smollm2-135m"'),
        (ObjectKind.BASE_MODEL, "ALL", '"*"'),
        (ObjectKind.ACCOUNT, "", ""),
    ],
)
def test_objects_as_they_are_written(kind: ObjectKind, written: str, dotted: str) -> None:
    found = parse_securable(kind, written, "D", "S")
    assert found.dotted == dotted
    if kind is not ObjectKind.BASE_MODEL and dotted:
        assert parse_securable(kind, dotted, "D", "S") == found


def test_every_action_and_kind_has_its_row() -> None:
    assert set(NEEDS) == set(Action)
    assert set(GRANTABLE) == set(ObjectKind) - {ObjectKind.PLATFORM, *MADE}


def test_who_the_first_user_is() -> None:
    assert user_key("ADMIN") == user_key('"admin"') == ADMIN_USER
    assert user_key('"adm\u0131n"') == "adm\u0131n"


OF_MODELS = [each for each in Action if ABOUT.get(each, MODEL) in (MODEL, SCHEMA) and each is not Action.GRANT]
"""GRANT of what is another account's finds nothing to grant on."""


@pytest.mark.parametrize("action", OF_MODELS)
def test_what_another_account_shares_is_seen_and_asked_and_nothing_else(action: Action) -> None:
    """By whoever has the database's privileges, ACCOUNTADMIN too."""
    shared = Securable(ObjectKind.MODEL, "D", "S", "M", is_imported=True)
    on = shared.in_schema if ABOUT.get(action) == SCHEMA else shared
    for who in (rights({DATABASE: {Privilege.IMPORTED}, **CORTEX}), Rights(frozenset((ADMIN_ROLE,)))):
        assert (missing(action, who, on) is None) == (action in (Action.SEE_MODEL, Action.COMPLETE))
    hidden = missing(Action.SEE_MODEL, rights({DATABASE: {Privilege.USAGE}}), shared)
    assert hidden is not None
    assert hidden.is_hidden
