"""The registry's benchmark: it fills what it says, measures every verb and tells rates."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from benchmarks import registry as benchmark
from benchmarks import registry_budgets
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store

pytestmark = pytest.mark.stores


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "NUM_BATCHES", 2)
    monkeypatch.setattr(registry_budgets, "NUM_BUDGETS", 5)


def test_the_command(tmp_path: Path, own_home: None) -> None:
    out = tmp_path / "result.md"
    result = CliRunner().invoke(benchmark.main, ["--sizes", "20,60", "--rounds", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "| p50, ms | 20 rows | 60 rows | last / first |" in text
    for verb in benchmark.VERBS:
        assert re.search(rf"^\| {verb} \| \d+\.\d+ \| \d+\.\d+ \| \d+\.\d+ \|$", text, re.MULTILINE), verb
    assert "sqlite" in text.splitlines()[0]


def test_rows_are_filled_and_verbs_find_them(settings: Settings) -> None:
    registry, store = Registry(settings, benchmark.Idle()), Store(settings.store_url)
    benchmark.prepare(registry)
    benchmark.fill(store, 0, 60)
    benchmark.fill(store, 60, 100)
    budgeted = registry_budgets.Budgeted(registry, benchmark.ME)
    seconds = benchmark.measure(registry, budgeted, 100, rounds=3)
    assert set(seconds) == set(benchmark.VERBS)
    jobs = registry.jobs.show(benchmark.ME)
    assert len(jobs) == 34 + 2 * 3
    assert {job.role for job in registry.jobs.show(benchmark.ANN)} == {"R0", "R1"}
    shown = registry.models.show(benchmark.ANN)
    assert 0 < len(shown) < len(registry.models.show(benchmark.ME)) == 4
    with store.reading() as connection:
        records = connection.execute(sa.select(sa.func.count()).select_from(store.table("usage"))).scalar_one()
    assert records == 100 + 2 * 2 * benchmark.BATCH
    budgets = registry.budgets.show(registry_budgets.ADMIN)
    assert [budget.spent_ucr for budget in budgets] == [2 * benchmark.BATCH // 5 * 3] * 5
    assert registry.credits.balance(registry_budgets.ADMIN).overrun_ucr == 0
    benchmark.fill(store, 100, 110)  # beside what was submitted
    store.engine.dispose()
