"""Options and values that several commands share."""

from datetime import UTC, datetime
from typing import Any

import click

from luthier.errors import InvalidInput

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def parse_set(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`--set key=value` options; numbers become numbers."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InvalidInput(f"--set {pair}: write key=value.")
        parsed[key.strip()] = _value(text.strip())
    return parsed


def parse_time(text: str | None) -> int | None:
    """ISO 8601 date or time (local unless it says otherwise) to epoch milliseconds."""
    if text is None:
        return None
    try:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no date or time: write 2026-11-21 or 2026-11-21T14:00.") from error


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
