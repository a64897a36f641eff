"""The usage views' benchmark: it fills the ledger, asks a gateway of its own and tells what each statement took."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import usage_views as benchmark


def test_the_command(tmp_path: Path, own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "SELECT *, as JSON"
    monkeypatch.setattr(benchmark, "STATEMENTS", {name: benchmark.STATEMENTS[name]})
    out = tmp_path / "result.md"
    result = CliRunner().invoke(benchmark.main, ["--rows", "20", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert re.search(
        rf"^\| {re.escape(name)} \| \d+\.\d \| \d+\.\d \| \d+\.\d \| \d+ \|$", out.read_text(), re.MULTILINE
    )
