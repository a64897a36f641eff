"""Snowflake's SQL in, DuckDB's SQL out, and the gate between them: one statement that only reads.

The tree is judged twice, as the user wrote it and as DuckDB will read it. Knows no tables; sql_engine resolves those.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from sqlglot import exp, parse, tokenize
from sqlglot.dialects.dialect import DialectType
from sqlglot.errors import ErrorLevel, SqlglotError

from luthier.errors import InvalidSql
from luthier.platform.sql.sql_session import Asker, put_said
from luthier.platform.sql.sql_types import SnowflakeTypes

# The parser logs statements that it cannot judge, and a statement may hold prompts: its warnings stay unheard.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_QUERIES = (exp.Select, exp.SetOperation, exp.Values, exp.Subquery)

_REFUSED: dict[type[exp.Expr], str] = {
    exp.DML: "changes data",
    exp.DDL: "changes tables",
    exp.Merge: "changes data",
    exp.Drop: "changes tables",
    exp.Alter: "changes tables",
    exp.TruncateTable: "changes data",
    exp.Copy: "writes files",
    exp.Into: "writes a table",
    exp.Set: "changes settings",
    exp.Attach: "opens other databases",
    exp.Detach: "closes databases",
    exp.Pragma: "changes settings",
    exp.Use: "changes the session",
    exp.Command: "is not a query",
    exp.Describe: "is not a query",
    exp.Lock: "locks rows",
    exp.DynamicIdentifier: "names a table by an expression: write the name itself",
    exp.Placeholder: "has a bind variable without a value",
    exp.Parameter: "has a bind variable without a value",
}

# The only functions that may stand where a table is expected.
_TABLE_FUNCTIONS = {"range", "generate_series", "unnest", "explode", "generator", "json_each", "json_tree", "flatten"}

# DuckDB runs most of these as table functions only; none may appear under any spelling, wherever it stands.
_REFUSED_FUNCTION = re.compile(
    r"__.*|read_.*|.*_scan(_.*)?|glob|sniff_csv|parquet_.*|query|query_table|duckdb_.*|pragma_.*|stats|vector_type"
    r"|pg_get_.*|json_(execute|(de)?serialize)_.*"
    r"|(session_)?user|(current_)?version|current_(query(_id)?|(connection|transaction)_id|schemas)|txid_current"
    r"|getenv|getvariable|current_setting|set_config|which_secret|nextval|currval|setval|write_log|sleep_ms"
    r"|(en|dis)able_.*|(force_)?checkpoint|truncate_duckdb_logs|(create_|register_|deregister_|destroy_)external_.*"
)
# A quote or comment that does not end goes on to the end of the text, and is never a blank.
_PIECE = re.compile(
    r"(?P<is_blank>[\s;]++|(?:--|//)[^\n]*+|/\*.*?\*/)"
    r"|/\*.*+|'(?:[^'\\]++|''|\\.)*+'?|\"(?:[^\"]++|\"\")*+\"?|\$\$.*?(?:\$\$|\Z)|[^\s;'\"$/-]++|.",
    re.DOTALL,
)
_SYSTEM_TABLE = re.compile(r"(duckdb|pragma|sqlite|pg)_.*")
_SYSTEM_PLACES = {"system", "temp", "memory", "pg_catalog"}
_OPEN_INFORMATION_SCHEMA = {"tables", "columns", "schemata"}

COUNT_DETAILED = "count_tokens_detailed"
"""What AI_COUNT_TOKENS is called when it is to give an object: a function has one type here."""

# Each call is paid for: a rendering that repeats one would bill it twice.
_PAID_FUNCTION = re.compile(r"(try_)?complete|finetune|count_tokens|ai_.*")


def to_duckdb(sql: str, asker: Asker | None = None) -> str:
    """One reading statement of Snowflake's SQL, gated and rendered for DuckDB. Raises InvalidSql with one line.

    Without `asker` it is looked at alone: functions of the session stay as they are.
    """
    return rendered(gated(sql), asker)


def gated(sql: str) -> exp.Expr:
    """One reading statement, as the user wrote it."""
    tree = _only_query(sql, SnowflakeTypes)
    _check(tree)
    return tree


def rendered(tree: exp.Expr, asker: Asker | None = None) -> str:
    """For DuckDB; the tree is used up."""
    num_paid = paid_calls(tree)
    if asker:
        put_said(tree, asker)
    text = _render(tree)
    again = _only_query(text, "duckdb")
    _check(again)
    repeated = paid_calls(again) - num_paid
    if repeated:
        name = next(iter(repeated)).upper()
        raise InvalidSql(
            f"{name} inside this expression would run more than once a row: "
            f"compute it in a subquery and use its column here."
        )
    return text


def trimmed(sql: str) -> str:
    """The statement without blanks, semicolons and comments before and behind it."""
    start, end = len(sql), 0
    for piece in _PIECE.finditer(sql):
        if not piece["is_blank"]:
            start, end = min(start, piece.start()), piece.end()
    return sql[start:end]


def text_in(literal: str) -> str:
    """What a text in quotes says."""
    return tokenize(literal, read=SnowflakeTypes)[0].text


def training_query(sql: str, columns: Mapping[str, str], asker: Asker | None = None) -> str:
    """The training columns of a query, as DuckDB's SQL: each name with the expression that gives it."""
    selected = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    return f"SELECT {selected} FROM ({to_duckdb(sql, asker)}) AS training_rows"


def _only_query(sql: str, dialect: DialectType) -> exp.Expr:
    try:
        statements = [tree for tree in parse(sql, read=dialect) if tree is not None]
    except (SqlglotError, RecursionError, ValueError) as error:
        raise InvalidSql(f"The statement does not parse: {_one_line(error)}") from error
    if not statements:
        raise InvalidSql("The statement is empty.")
    if len(statements) > 1:
        raise InvalidSql(f"One statement is allowed, and here are {len(statements)}: send them one by one.")
    tree = statements[0]
    if not isinstance(tree, _QUERIES):
        word = sql.split(maxsplit=1)[0].strip("(;").upper()
        raise InvalidSql(f"Only a query (SELECT, WITH, VALUES) is allowed here, and this is {word}.")
    return tree


def _check(tree: exp.Expr) -> None:
    for node in tree.walk():
        for kind, reason in _REFUSED.items():
            if isinstance(node, kind) and not isinstance(node, _QUERIES) and not _is_position(node):
                raise InvalidSql(f"Only reading is allowed, and {_shown(node)} {reason}.")
        if isinstance(node, exp.Table):
            _check_table(node)
        elif isinstance(node, exp.TableFromRows | exp.Lateral) and not isinstance(node.this, exp.Subquery):
            _check_table_function(node.this)
        if isinstance(node, exp.Func):
            _check_function(node)


def _is_position(node: exp.Expr) -> bool:
    """$1: a column of what FROM gives, by its place."""
    return isinstance(node, exp.Parameter) and isinstance(node.this, exp.Literal) and node.this.is_int


def _check_table(node: exp.Table) -> None:
    source = node.this
    if isinstance(source, exp.Func):
        _check_table_function(source)
        return
    if not isinstance(source, exp.Identifier):
        raise InvalidSql(f"{_shown(source)} is not a table name: files and stages cannot be read here.")
    parts = [node.catalog, node.db, node.name]
    if "/" in "".join(parts if not all(parts) else parts[:2]):  # DuckDB would join them by dots, and read that path
        raise InvalidSql(f"{'.'.join(filter(None, parts))} is not a table name: files cannot be read here.")
    name, schema, database = node.name.lower(), node.db.lower(), node.catalog.lower()
    is_hidden_schema = schema == "information_schema" and name not in _OPEN_INFORMATION_SCHEMA
    if _SYSTEM_TABLE.fullmatch(name) or {schema, database} & _SYSTEM_PLACES or is_hidden_schema:
        raise InvalidSql(f"The system table {node.name} cannot be read here.")


def _check_table_function(node: exp.Expr) -> None:
    names = _function_names(node) if isinstance(node, exp.Func) else [_shown(node).lower()]
    if not _TABLE_FUNCTIONS.intersection(names):
        raise InvalidSql(f"The table function {names[0].upper()} is not allowed here: read tables by their names.")


def _check_function(node: exp.Func) -> None:
    for name in _function_names(node):
        if _REFUSED_FUNCTION.fullmatch(name):
            raise InvalidSql(f"The function {name.upper()} is not allowed here.")


def _function_names(node: exp.Func) -> list[str]:
    if isinstance(node, exp.Anonymous):
        return [node.name.lower()]
    return [name.lower() for name in node.sql_names()]


def paid_calls(tree: exp.Expr) -> Counter[str]:
    return Counter(
        name for node in tree.find_all(exp.Func) for name in _function_names(node)[:1] if _PAID_FUNCTION.fullmatch(name)
    )


def _render(tree: exp.Expr) -> str:
    for node in reversed(list(tree.walk())):  # children first, so that nested objects are rewritten inside out
        replacement = _to_duckdb_node(node)
        if replacement is not node:
            node.replace(replacement)
    try:
        return tree.sql("duckdb", comments=False, unsupported_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise InvalidSql(f"The statement uses what this SQL engine does not have: {_one_line(error)}") from error


def _to_duckdb_node(node: exp.Expr) -> exp.Expr:
    """Objects, PROMPT's too, become JSON, paths JSON functions (-> binds too loosely); LENGTH is called once."""
    if isinstance(node, exp.Struct) and all(isinstance(pair, exp.PropertyEQ) for pair in node.expressions):
        return exp.Anonymous(this="json_object", expressions=list(_object_arguments(node)))
    if isinstance(node, exp.Array) and _stands_in_object(node):
        return _call("json_array", *node.expressions)
    if isinstance(node, exp.Cast) and node.this.name == "json_extract" and node.to.is_type("text", "varchar"):
        return _call("json_extract_string", *node.this.expressions)
    if isinstance(node, exp.Cast) and node.to.is_type("object", "variant") and not node.to.expressions:
        return _call("to_json", node.this)
    if isinstance(node, exp.JSONExtract):
        return _call("json_extract", node.this, node.expression)
    if isinstance(node, exp.Length):
        return _call("length", node.this)
    if _is_position(node):
        return exp.PositionalColumn(this=node.this)
    if isinstance(node, exp.Anonymous) and node.name.lower() == "ai_count_tokens" and _is_true(node.expressions[-1:]):
        return _call(COUNT_DETAILED, *node.expressions)
    if isinstance(node, exp.Anonymous) and node.name.lower() == "prompt" and node.expressions:
        template, *values = node.expressions
        return _call("json_object", _text("template"), template, _text("args"), _call("json_array", *values))
    return node


def _is_true(nodes: list[exp.Expr]) -> bool:
    return any(isinstance(node, exp.Boolean) and node.this for node in nodes)


def _stands_in_object(node: exp.Expr) -> bool:
    """DuckDB's own lists want one type; in an object the values may differ."""
    parent = node.parent
    while isinstance(parent, exp.Array):
        parent = parent.parent
    return isinstance(parent, exp.PropertyEQ)


def _object_arguments(node: exp.Struct) -> Iterator[exp.Expr]:
    for pair in node.expressions:
        key = pair.this
        yield exp.Literal.string(key.name) if isinstance(key, exp.Identifier) else key
        yield pair.expression


def _call(name: str, *arguments: exp.Expr) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(arguments))


def _text(value: str) -> exp.Expr:
    return exp.Literal.string(value)


def _shown(node: exp.Expr) -> str:
    text = " ".join(node.sql("snowflake").split())
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: Exception) -> str:
    """The parser's reason without terminal colours and without the excerpt that follows."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    return " ".join(text.splitlines()[0].split()) if text else type(error).__name__
