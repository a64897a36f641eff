"""Types of SQL: TYPE OBJECT(a STRING, ...) in Snowflake's becomes the response format that it stands for; DuckDB's
types as Snowflake calls them."""

import json
from typing import Any

from sqlglot import exp
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.errors import ParseError
from sqlglot.parsers.snowflake import SnowflakeParser


class SnowflakeTypes(Snowflake):
    """Read with it as with `snowflake`."""

    class Parser(SnowflakeParser):
        NO_PAREN_FUNCTION_PARSERS = {
            **SnowflakeParser.NO_PAREN_FUNCTION_PARSERS,
            "TYPE": lambda self: self._parse_type_literal(),
        }

        def _parse_type_literal(self) -> exp.Expr | None:
            """None, and nothing read, where `type` is but a name."""
            if not (self._match_text_seq("OBJECT", advance=False) and self._next.text == "("):
                self._retreat(self._index - 1)
                return None
            kind = self._parse_types()
            assert isinstance(kind, exp.DataType)
            shape = json.dumps({"type": "json", "schema": _schema(kind)})
            return exp.ParseJSON(this=exp.Literal.string(shape))


_NAMES = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"), "NUMBER(38,0)"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"), "NUMBER(38,0)"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "FLOAT"),
    "VARCHAR": "VARCHAR(16777216)",
    "BLOB": "BINARY(8388608)",
    "TIME": "TIME(9)",
    "JSON": "VARIANT",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_TZ(9)",
}


def snowflake_type(duckdb: str) -> str:
    """What Snowflake calls a type of DuckDB."""
    if duckdb.endswith("]"):
        return "ARRAY"
    if duckdb.startswith(("STRUCT", "MAP")):
        return "OBJECT"
    if duckdb.startswith("DECIMAL"):
        return duckdb.replace("DECIMAL", "NUMBER")
    if duckdb.startswith("TIMESTAMP") and "ZONE" not in duckdb:
        return "TIMESTAMP_NTZ(9)"
    return _NAMES.get(duckdb, duckdb)


def _schema(kind: exp.DataType) -> dict[str, Any]:
    """JSON schema of a type. An object has all of its keys, and no others."""
    if kind.is_type("object") and kind.expressions:
        fields = {field.name: _schema(field.args["kind"]) for field in kind.expressions}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    if kind.is_type("array") and kind.expressions:
        return {"type": "array", "items": _schema(kind.expressions[0])}
    if kind.is_type(*exp.DataType.TEXT_TYPES):
        return {"type": "string"}
    if kind.is_type("boolean"):
        return {"type": "boolean"}
    if kind.is_type(*exp.DataType.NUMERIC_TYPES):
        return {"type": "integer" if _is_whole(kind) else "number"}
    raise ParseError(f"TYPE {kind.sql('snowflake')} has no counterpart in JSON")


def _is_whole(kind: exp.DataType) -> bool:
    """A FIXED type without a scale."""
    if kind.is_type(*exp.DataType.INTEGER_TYPES):
        return True
    return kind.is_type("decimal") and kind.expressions[-1].name == "0"
