"""Every statement, view and function of SQL on what an account has, asked by its owner, another and the powerless.

The tables of lines are held against the code's own: a kind of statement, a word of it, a view, a function or a verb
that has no line fails.
"""

import asyncio
import re
from contextvars import copy_context

import pytest
from starlette.testclient import TestClient

from luthier.platform.keys import Session
from luthier.platform.privileges import Action
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from luthier.serve.dialects import snowflake_sql
from luthier.serve.dialects.snowflake_statements import meaning
from luthier.serve.dialects.sql_functions.finetune import NUM_ARGUMENTS
from luthier.serve.dialects.sql_functions.rows import Statement
from luthier.serve.services import Services, make_services
from tests.factories import ADMIN
from tests.flow.first_account import (  # noqa: F401 - fixtures
    BY_SQL,
    MISSING,
    PARTNER,
    Names,
    check,
    is_named,
    make_first,
    make_other,
    missing_beside,
    note_asked,
    rows_of,
)
from tests.flow.isolation import V1
from tests.flow.isolation_statements import (
    CHANGES,
    FUNCTIONS,
    LISTS,
    NULLS,
    OPEN,
    PARTNERS,
    READINGS,
    REFUSED,
)
from tests.flow.people import Join, join  # noqa: F401 - a fixture

ALL = (*LISTS, *READINGS, *CHANGES, *OPEN, *PARTNERS, *REFUSED)


def ask(client: TestClient, line: str, names: Names) -> tuple[int, str]:
    """Status, and the text without the names that were asked for."""
    statement = names.put(line)
    response = client.post(f"{V1}/sql", json={"statement": statement})
    return response.status_code, names.taken_out(response.text, statement)


def test_nothing_is_told_or_given(
    other: TestClient,
    first: Names,
    settings: Settings,
    asked: set[Action],
) -> None:
    store = Store(settings.store_url, migrate=False)
    before, absent = rows_of(store), missing_beside(first)
    for line in ALL:
        theirs, none = ask(other, line, first), ask(other, line, absent)
        check(line, theirs, none, first, is_same=is_named(line))
        if is_named(line) and line not in OPEN and not any(word in line for word in NULLS):
            assert theirs[0] >= 400, f"{line}: {theirs}"
    assert before <= rows_of(store), "nothing of the first has changed"
    if other.get(f"{V1}/whoami").json()["account"] == ADMIN.account:  # another's has nothing to decide on
        assert asked >= BY_SQL


def test_its_owner_is_answered(
    api: TestClient,
    first: Names,
    join: Join,  # noqa: F811
) -> None:
    """Else a line would prove nothing of who is refused it."""
    partner = join("ACCOUNTADMIN", account=PARTNER)
    for line in (*LISTS, *READINGS):
        answer = api.post(f"{V1}/sql", json={"statement": first.put(line)})
        assert answer.status_code == 200, f"{line}: {answer.text}"
        assert answer.json()["rows"], f"{line} tells its owner nothing: {answer.text}"
    asked = [(partner, line) for line in PARTNERS] + [(api, line) for line in (*CHANGES, *OPEN)]
    told = [(line, *ask(client, line, first)) for client, line in asked]
    assert [answer for answer in told if answer[1] != 200 or "[[null]]" in answer[2]] == []
    assert [line for line in REFUSED if ask(api, line, first)[0] < 400] == []


def test_every_kind_of_statement_has_a_line() -> None:
    """With each of its parts, and each word that may stand in one."""
    patterns = [rule.words for rule in snowflake_sql.STATEMENTS]
    had: dict[re.Pattern[str], set[tuple[str, str | None]]] = {words: set() for words in patterns}
    for line in ALL:
        if meant := meaning(snowflake_sql.STATEMENTS, MISSING.put(line)):
            had[meant[0].re] |= {("", "")}
            had[meant[0].re] |= {part for name, text in meant[0].groupdict().items() for part in parts(name, text)}
    missing = {words.pattern: wanted(words) - found for words, found in had.items() if wanted(words) - found}
    assert not missing


def wanted(words: re.Pattern[str]) -> set[tuple[str, str | None]]:
    """The pattern itself, its named groups, and the words of those that are a choice of words."""
    choices = re.findall(r"\(\?P<(\w+)>((?:[A-Z]|\\s\+|\|)+)\)", words.pattern)
    each = {(name, word.replace(r"\s+", " ").strip()) for name, listed in choices for word in listed.split("|")}
    return {("", ""), *((name, None) for name in words.groupindex), *each}


def parts(name: str, text: str | None) -> set[tuple[str, str | None]]:
    return set() if text is None else {(name, None), (name, " ".join(text.upper().split()))}


@pytest.fixture
def services(settings: Settings, registry: object, completions: object) -> Services:
    return make_services(settings, registry, completions)


def test_every_function_has_a_line(services: Services) -> None:
    statement = Statement(services, Session(caller=ADMIN), iter(()), asyncio.new_event_loop(), {}, copy_context())
    functions = snowflake_sql._functions(statement, "SELECT AI_SOMETHING()")
    assert {name.rpartition(".")[2] for name in functions} == FUNCTIONS.keys()
    verbs = {found[1] for line in ALL for found in [re.search(r"FINETUNE\('(\w+)'", line)] if found}
    assert verbs == NUM_ARGUMENTS.keys()
