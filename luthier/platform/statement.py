"""The statement of an account: its ledger, line by line, as CSV or as CloudEvents. Amounts are exact."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from luthier.platform.metering import UsageRecord
from luthier.platform.prices import to_credits

Format = Literal["csv", "cloudevents"]
MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv; charset=utf-8", "cloudevents": "application/x-ndjson"}
COUNTS = ("prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens", "stored_bytes")
ABOUT = ("user", "role", "key", "function", "base_model", "model", "version")
COLUMNS = (
    *("time", "kind", "source_id", "account"),
    *ABOUT,
    *COUNTS,
    *("price_version", "amount_ucr", "credits"),
)
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How what spreadsheets compute may begin."""


def lines(records: Iterable[UsageRecord], form: Format) -> Iterator[str]:
    """Each with its end; CSV begins with the names of its columns, also when there is no record."""
    if form == "csv":
        yield _csv_line(COLUMNS)
    line = _LINES[form]
    for record in records:
        yield line(record)


def cloud_event(record: UsageRecord) -> dict[str, Any]:
    """CloudEvents 1.0, in JSON. `source` and `id` are the ledger's unique key: who gets it twice can tell."""
    data = {name: getattr(record, name) for name in ABOUT}
    return {
        "specversion": "1.0",
        "type": f"luthier.usage.{record.kind.value}",
        "source": f"/luthier/accounts/{quote(record.account, safe='')}/{record.kind.value}",
        "id": record.source_id,
        "subject": record.account,
        "time": _time(record),
        "datacontenttype": "application/json",
        "data": {**data, **{name: getattr(record, name) for name in COUNTS}, **_paid(record)},
    }


def _csv(record: UsageRecord) -> str:
    values = {**record.model_dump(mode="json"), **_paid(record), "time": _time(record)}
    return _csv_line([_inert(values[name]) for name in COLUMNS])


def _inert(value: Any) -> Any:
    """No spreadsheet takes a name for a formula; whoever makes users and roles names them."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else "" if value is None else value


def _event(record: UsageRecord) -> str:
    return json.dumps(cloud_event(record), separators=(",", ":")) + "\n"


def _paid(record: UsageRecord) -> dict[str, Any]:
    """Credits as a decimal in text, never in exponents: no float touches money."""
    credits = f"{to_credits(record.amount_ucr):f}"
    return {"price_version": record.price_version, "amount_ucr": record.amount_ucr, "credits": credits}


def _time(record: UsageRecord) -> str:
    """RFC 3339."""
    return datetime.fromtimestamp(record.time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)  # what has either letter in it is quoted for that
    return text.getvalue().removesuffix("\r\n") + "\n"


_LINES: dict[Format, Callable[[UsageRecord], str]] = {"csv": _csv, "cloudevents": _event}
