"""The registry's benchmark: it fills what it says, measures every verb and tells rates."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from benchmarks import registry as benchmark
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store

pytestmark = pytest.mark.stores


def test_the_command(tmp_path: Path, own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "NUM_BATCHES", 2)
    out = tmp_path / "result.md"
    result = CliRunner().invoke(benchmark.main, ["--sizes", "20,60", "--rounds", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "| p50, ms | 20 rows | 60 rows | last / first |" in text
    for verb in benchmark.VERBS:
        assert re.search(rf"^\| {verb} \| \d+\.\d+ \| \d+\.\d+ \| \d+\.\d+ \|$", text, re.MULTILINE), verb
    assert "sqlite" in text.splitlines()[0]


def test_rows_are_filled_and_verbs_find_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "NUM_BATCHES", 2)
    registry, store = Registry(settings, benchmark.Idle()), Store(settings.store_url)
    registry.access.add_admin_key(benchmark.ME.account, "hash", "lt_ben")
    benchmark.fill(store, 0, 30)
    benchmark.fill(store, 30, 50)
    seconds = benchmark.measure(registry, 50, rounds=3)
    assert set(seconds) == set(benchmark.VERBS)
    assert len(registry.jobs.show(benchmark.ME)) == 50 + 3
    with store.reading() as connection:
        records = connection.execute(sa.select(sa.func.count()).select_from(store.table("usage"))).scalar_one()
    assert records == 50 + 2 * benchmark.BATCH
    benchmark.fill(store, 50, 60)  # beside what was submitted
    store.engine.dispose()
