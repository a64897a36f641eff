"""What the files of Snowflake's statements share: a table of patterns, each with what answers it.

Words of a statement stand in order, as Snowflake's documentation has them; names are identifiers. Every statement is
held against every pattern: a loop in one is possessive (*+), or cannot take what stands behind it, so that none needs
more than a time that grows with the text. Nobody else is answered while a pattern is matched.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from luthier.errors import InvalidSql, NotFound
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.keys import Endpoint, Session
from luthier.platform.names import fold, parse_schema
from luthier.platform.registry.paging import MAX_PATTERN, Named
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.sql.sql_dialect import text_in
from luthier.serve.services import Services

MAX_ROWS = 10_000
"""Of a SHOW, as in Snowflake."""
IDENTIFIER = r'(?:"(?:[^"]++|"")*+"|[\w$]++)'
NAME = rf"{IDENTIFIER}(?:\s*\.\s*{IDENTIFIER}){{,2}}"
TEXT = r"'(?:[^'\\]++|''|\\.)*+'"
WORDS = {
    "IDENTIFIER": IDENTIFIER,
    "NAME": NAME,
    "TEXT": TEXT,
    "ONE_NAME": f"(?P<name>{IDENTIFIER})",
    "FULL_NAME": f"(?P<name>{NAME})",
    "COMMENT": f"(?: COMMENT=(?P<comment>{TEXT}))?",
    "IF_EXISTS": "(?P<if_exists> IF EXISTS)?",
    # What is there and is the caller's stays as it is, said or not.
    "IF_NOT_EXISTS": "(?: IF NOT EXISTS)?",
    # The ends of SHOW: what they leave of its rows stands in `left`.
    "LIKE": f"(?: LIKE (?P<like>{TEXT}))?",
    "IN_PLACE": (
        f"(?: IN (?:ACCOUNT|(?P<in_home>DATABASE|SCHEMA)|DATABASE (?P<in_database>{IDENTIFIER})|"
        f"(?:SCHEMA )?(?P<in_schema>{NAME})))?"
    ),
    "STARTS": f"(?: STARTS WITH (?P<starts>{TEXT}))?",
    "LIMIT": rf"(?: LIMIT (?P<limit>\d{{1,9}})(?: FROM (?P<after>{TEXT}))?)?",
}
"""What is alike in many statements, by the names that stand for it in their words."""
ENDS = ("like", "in_home", "in_database", "in_schema", "starts")
"""They leave some of the rows of a SHOW."""
SHOWING = ("SHOW", "DESC", "CALL")
"""Statements that begin so change nothing."""

_TYPES = dict.fromkeys(("created_on", "shared_on"), pa.timestamp("ms", tz="UTC"))


@dataclass(frozen=True)
class Command:
    """A statement that a pattern fits, and who says it."""

    services: Services
    session: Session
    words: dict[str, Any]
    """By the names that the pattern gives them; None: it is not said."""

    def __getitem__(self, name: str) -> Any:
        return self.words[name]

    @property
    def caller(self) -> Caller:
        return self.session.caller

    @property
    def registry(self) -> Registry:
        return self.services.registry

    @property
    def kind(self) -> ObjectKind:
        """Of the object that is named, or of those in a schema that is."""
        return ObjectKind(" ".join(self["kind"].upper().removesuffix("S").split()))

    @property
    def comment(self) -> str:
        return text_of(self["comment"])

    @property
    def wanted(self) -> Named:
        """What its LIKE, IN and STARTS WITH leave."""
        like, starts = self.words.get("like"), self.words.get("starts")
        if like and len(like) > MAX_PATTERN:
            raise InvalidSql(f"The pattern of LIKE has more than {MAX_PATTERN} characters.")
        return Named(like=like and _pattern_of(like), starts=text_of(starts), within=self._within)

    @property
    def _within(self) -> tuple[str, ...]:
        settings = self.services.settings
        if database := self.words.get("in_database"):
            return (fold(database),)
        if schema := self.words.get("in_schema"):
            return parse_schema(schema, settings.database)
        home = (self.words.get("in_home") or "").upper()
        return (settings.database, settings.schema_name)[: ("", "DATABASE", "SCHEMA").index(home)]

    def check_place(self) -> None:
        """NotFound where its IN names no place that the caller sees."""
        if within := self._within:
            database, schema = (*within, "")[:2]
            kind = ObjectKind.SCHEMA if schema else ObjectKind.DATABASE
            self.registry.databases.check_seen(self.caller, Securable(kind, database, schema))

    @property
    def wanted_since(self) -> Named:
        """And its FROM, of a list in the order of names."""
        return self.wanted.model_copy(update={"since": text_of(self.words.get("after"))})

    @property
    def most_rows(self) -> int:
        """That a SHOW needs: what its LIMIT says, where nothing else leaves some of them out."""
        if self["limit"] is None or any(self.words.get(end) for end in (*ENDS, "after")):
            return MAX_ROWS
        return min(int(self["limit"]), MAX_ROWS)


Answer = Callable[[Command], pa.Table]


@dataclass(frozen=True)
class Rule:
    """The words of a statement, what answers it, and what a key must be for to say it."""

    words: re.Pattern[str]
    answer: Answer
    endpoint: Endpoint
    is_change: bool

    def check(self, command: Command) -> None:
        """NotAllowed for what the key's scope does not hold."""
        session, model = command.session, command.words.get("name") if self.endpoint is Endpoint.MODELS else None
        session.check(self.endpoint, self.is_change)
        if model:
            command.services.check_tuned(session, model)
        elif self.is_change:
            session.check_unbounded("such a statement")


class Statements(list[Rule]):
    """In the order in which they are tried."""

    def __init__(self, endpoint: Endpoint, **own: str) -> None:
        """All of them are of one part of the API; of MODELS, a `name` in one is a model's. `own` are words beside
        WORDS.
        """
        self._endpoint, self._words = endpoint, WORDS | own

    def on(self, *each: str) -> Callable[[Answer], Answer]:
        """Whoever says one of these is answered by the function. Any blanks where one stands here, and around an =."""

        def add(answer: Answer) -> Answer:
            for words in each:
                blanks = words.format_map(self._words).replace(" ", r"\s++").replace("=", r"\s*+=\s*+")
                pattern = re.compile(blanks, re.IGNORECASE | re.DOTALL)
                self.append(Rule(pattern, answer, self._endpoint, not words.removeprefix("(?:").startswith(SHOWING)))
            return answer

        return add


def meaning(statements: list[Rule], statement: str) -> tuple["re.Match[str]", Rule] | None:
    """The first that fits a trimmed statement; None when it is none of them."""
    return next(((found, rule) for rule in statements if (found := rule.words.fullmatch(statement))), None)


def left(command: Command, shown: pa.Table) -> pa.Table:
    """Of the rows of a SHOW, those that its ends ask for."""
    words = command.words
    if not any(words.get(end) for end in (*ENDS, "limit")):
        return shown
    wanted = command.wanted
    name = next(each for each in ("name", "key", "role") if each in shown.schema.names)
    place = [column for column in ("database_name", "schema_name") if column in shown.schema.names]
    rows = [row for row in shown.to_pylist() if wanted.fits(row[name], *(row[column] for column in place))]
    if after := words.get("after"):
        passed = (at for at, row in enumerate(rows, 1) if row[name].startswith(text_of(after)))
        rows = rows[next(passed, len(rows)) :]
    if limit := words.get("limit"):
        rows = rows[: int(limit)]
    return pa.Table.from_pylist(rows, shown.schema)


def columns(names: str) -> pa.Schema:
    """Between commas; text, but for what is named as a time, a truth or a count."""
    return pa.schema([(name, _TYPES.get(name, _type_of(name))) for name in names.split(", ")])


def table(schema: pa.Schema, rows: Iterable[Frozen | Mapping[str, Any]], **fixed: Any) -> pa.Table:
    """With the fixed columns alike in all rows. A column that a row lacks is NULL."""
    told = (row.model_dump() if isinstance(row, Frozen) else row for row in rows)
    return pa.Table.from_pylist([{**row, **fixed} for row in told], schema)


def done(text: str = "Statement executed successfully.") -> pa.Table:
    return pa.table({"status": pa.array([text], pa.string())})


def created(kind: str, name: str, is_new: bool) -> pa.Table:
    told = f"{kind.capitalize()} {name} successfully created."
    return done(told if is_new else f"{name} already exists, statement succeeded.")


def dropped(command: Command, name: str, drop: Callable[[], object]) -> pa.Table:
    """What is not there may be missing only IF EXISTS."""
    try:
        drop()
    except NotFound:
        if not command["if_exists"]:
            raise
        return done("Drop statement executed successfully.")
    return done(f"{name} successfully dropped.")


def text_of(written: str | None) -> str:
    """Of a text in quotes."""
    return text_in(written) if written else ""


def _pattern_of(written: str) -> str:
    """Of LIKE's: before its own signs one backslash is as good as two."""
    return text_of(re.sub(r"\\.", lambda pair: f"\\{pair[0]}" if pair[0][1] in "%_" else pair[0], written))


def _type_of(name: str) -> pa.DataType:
    if name.startswith("is_") or name in ("grant_option", "disabled"):
        return pa.bool_()
    return pa.int64() if name in ("assigned_to_users", "granted_to_roles", "granted_roles") else pa.string()
