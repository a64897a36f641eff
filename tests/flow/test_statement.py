"""The statement of an account: every record once, exact amounts, CSV and CloudEvents as others read them."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from starlette.testclient import TestClient

from luthier.cli.main import main
from luthier.platform.access import hash_key
from luthier.platform.metering import UsageKind
from luthier.platform.registry import usage
from luthier.platform.registry.registry import Registry
from tests.factories import KEY, make_record
from tests.flow.conftest import error_of

pytestmark = pytest.mark.stores

PATH = "/luthier/v1/statement"


def fill(registry: Registry, num: int = 5) -> None:
    registry.ledger.append(
        [make_record(f"req_{number}", time=1_000 + number, amount_ucr=number, model='a,"b') for number in range(num)]
    )


def test_csv_has_every_record_and_exact_amounts(api: TestClient, registry: Registry) -> None:
    fill(registry)
    response = api.get(PATH)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["source_id"] for row in rows] == [f"req_{number}" for number in range(5)]
    assert {row["model"] for row in rows} == {'a,"b'}
    assert [row["credits"] for row in rows] == ["0", *(f"0.00000{number}" for number in range(1, 5))]
    assert sum(Decimal(row["credits"]) for row in rows) * 1_000_000 == sum(int(row["amount_ucr"]) for row in rows)
    assert rows[0]["time"] == "1970-01-01T00:00:01.000Z"
    assert rows[0]["version"] == ""


def test_the_same_record_in_two_kinds_is_two_events(api: TestClient, registry: Registry) -> None:
    same = {"source_id": "x", "account": "main"}
    registry.ledger.append(
        [make_record(**same), make_record(kind=UsageKind.TRAINING, trained_tokens=7, evaluated_tokens=3, **same)]
    )
    text = api.get(PATH, params={"format": "cloudevents"}).text
    events = [JSONFormat().read(CloudEvent, line) for line in text.splitlines()]
    keys = {(event.get_source(), event.get_id()) for event in events}
    assert keys == {("/luthier/accounts/main/completion", "x"), ("/luthier/accounts/main/training", "x")}
    assert {event.get_type() for event in events} == {"luthier.usage.completion", "luthier.usage.training"}
    (training,) = [event.get_data() for event in events if event.get_type().endswith("training")]
    assert isinstance(training, dict)
    assert (training["trained_tokens"], training["evaluated_tokens"]) == (7, 3)
    assert (training["amount_ucr"], training["credits"]) == (1, "0.000001")
    assert events[0].get_specversion() == "1.0"
    assert events[0].get_time().isoformat() == "1970-01-01T00:00:01+00:00"
    assert api.get(PATH, params={"format": "cloudevents"}).text == text


def test_a_record_names_the_key_that_asked(api: TestClient, registry: Registry) -> None:
    registry.ledger.append([make_record("a", key="key_1"), make_record("b")])
    rows = csv.DictReader(io.StringIO(api.get(PATH).text))
    assert [(row["user"], row["role"], row["key"]) for row in rows] == [
        ("admin", "ACCOUNTADMIN", "key_1"),
        ("admin", "ACCOUNTADMIN", ""),
    ]
    events = api.get(PATH, params={"format": "cloudevents"}).text.splitlines()
    assert [json.loads(line)["data"]["key"] for line in events] == ["key_1", None]


def test_times_are_a_half_open_interval(api: TestClient, registry: Registry) -> None:
    fill(registry)
    rows = csv.DictReader(io.StringIO(api.get(PATH, params={"since": 1_001, "until": 1_003}).text))
    assert [row["source_id"] for row in rows] == ["req_1", "req_2"]


def test_many_pages_are_one_statement(api: TestClient, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_PAGE", 3)
    fill(registry, num=9)
    lines = api.get(PATH, params={"format": "cloudevents"}).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"req_{number}" for number in range(9)]


def test_a_statement_of_nothing(api: TestClient, registry: Registry) -> None:
    assert api.get(PATH).text.count("\n") == 1
    assert api.get(PATH, params={"format": "cloudevents"}).text == ""
    registry.access.add_admin_key("other", hash_key("lt_other"), "lt_oth")
    fill(registry)
    other = api.get(PATH, headers={"Authorization": "Bearer lt_other"})
    assert other.text.count("\n") == 1


def test_a_format_that_is_unknown(api: TestClient) -> None:
    assert "format" in error_of(api.get(PATH, params={"format": "xml"}), 400, "invalid_parameter_value")


def test_the_command(server: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    fill(registry)
    runner = CliRunner()
    shown = runner.invoke(main, ["usage", "statement"])
    assert shown.exit_code == 0, shown.output
    file = tmp_path / "statement.csv"
    written = runner.invoke(main, ["usage", "statement", "--output", str(file)])
    assert (written.exit_code, file.read_text()) == (0, shown.output)
    assert [path.name for path in tmp_path.glob("statement*")] == ["statement.csv"]
    events = runner.invoke(
        main, ["usage", "statement", "--format", "cloudevents", "--since", "1970-01-01T00:00:01.004Z"]
    )
    assert [json.loads(line)["id"] for line in events.output.splitlines()] == ["req_4"]


def test_no_name_is_a_formula_for_a_spreadsheet(api: TestClient, registry: Registry) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a\r=1"]
    registry.ledger.append([make_record(f"req_{at}", user=name, role=name) for at, name in enumerate(names)])
    rows = list(csv.DictReader(io.StringIO(api.get(PATH).text, newline="")))
    assert [row["user"] for row in rows] == [*(f"'{name}" for name in names[:-1]), names[-1]]
    assert [row["role"] for row in rows] == [row["user"] for row in rows]
    events = api.get(PATH, params={"format": "cloudevents"}).text.splitlines()
    assert [json.loads(event)["data"]["user"] for event in events] == names
