"""`luthier ledger reconcile` on a cluster at work: equal after real requests, and each change to a row is found."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from luthier.cli.client import FinetuneJob
from tests.e2e.live import BASE, LiveCluster
from tests.forging import forging

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LAST = (
    f"(SELECT MAX(id) FROM usage WHERE kind = 'completion' AND base_model = '{BASE}' AND source_id NOT LIKE 'batch%')"
)


def differences(cluster: LiveCluster) -> dict[tuple[str, str, str], int]:
    told = cluster.run("ledger", "reconcile", "--json")
    report = json.loads(told.stdout)
    assert told.returncode == (0 if report["is_equal"] else 1), told.stderr
    return {
        (check["check"], check["what"], check["note"]): check["difference"]
        for check in report["checks"]
        if check["difference"]
    }


@contextmanager
def changed(cluster: LiveCluster, statement: str) -> Iterator[None]:
    """By somebody with the store in his hands; the ledger is then as it was."""
    engine = sa.create_engine(f"sqlite:///{cluster.home}/luthier.db", connect_args={"timeout": 30})
    with engine.begin() as tx, forging(tx, "usage"):
        kept = tx.exec_driver_sql("SELECT * FROM usage").all()
        tx.exec_driver_sql(statement)
    yield
    with engine.begin() as tx, forging(tx, "usage"):
        tx.exec_driver_sql("DELETE FROM usage WHERE source_id = 'forged'")
        marks, last = ", ".join("?" * len(kept[0])), kept[-1][0]
        old = [tuple(row) for row in kept if row[0] <= last]
        tx.exec_driver_sql(f"INSERT OR REPLACE INTO usage VALUES ({marks})", old)
    engine.dispose()


def test_equal_after_requests_and_each_change_is_found(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    for model in (BASE, "first"):
        cluster.client.complete(model, "the fox", {"max_tokens": 3})
    cluster.sql(f"SELECT AI_COMPLETE('{BASE}', word) FROM (VALUES ('one'), ('two')) AS words(word)")
    assert differences(cluster) == {}
    with changed(cluster, f"UPDATE usage SET amount_ucr = amount_ucr + 1 WHERE id = {LAST}"):
        assert differences(cluster) == {("completions", "amount_ucr", ""): -1}
    with changed(cluster, f"DELETE FROM usage WHERE source_id = '{first_job.id}'"):
        job = first_job.describe()
        assert differences(cluster) == {
            (check, what, note): job[what]
            for check, note in (("training", first_job.id), ("manifests", ""))
            for what in ("trained_tokens", "evaluated_tokens")
        }
    columns = "kind, account, user, role, function, base_model, model, prompt_tokens, completion_tokens, trained_tokens"
    columns += ", stored_bytes, price_version, amount_ucr, time"
    with changed(
        cluster, f"INSERT INTO usage (source_id, {columns}) SELECT 'forged', {columns} FROM usage WHERE id = {LAST}"
    ):
        assert differences(cluster)["completions", "records", ""] == -1
    assert differences(cluster) == {}
