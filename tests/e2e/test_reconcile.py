"""`luthier ledger reconcile` on a cluster at work: equal after real requests, and each change to a row is found."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from luthier.cli.client import FinetuneJob
from tests.e2e.live import BASE, LiveCluster

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
    with closing(sqlite3.connect(cluster.home / "luthier.db", timeout=30)) as store:
        kept = store.execute("SELECT * FROM usage").fetchall()
        store.execute(statement)
        store.commit()
        yield
        marks = ", ".join("?" * len(kept[0]))
        last = kept[-1][0]
        store.execute("DELETE FROM usage WHERE source_id = 'forged'")
        store.executemany(f"INSERT OR REPLACE INTO usage VALUES ({marks})", [row for row in kept if row[0] <= last])
        store.commit()


def test_equal_after_requests_and_each_change_is_found(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    for model in (BASE, "first"):
        cluster.client.complete(model, "the fox", {"max_tokens": 3})
    cluster.sql(f"SELECT AI_COMPLETE('{BASE}', word) FROM (VALUES ('one'), ('two')) AS words(word)")
    assert differences(cluster) == {}
    with changed(cluster, f"UPDATE usage SET amount_ucr = amount_ucr + 1 WHERE id = {LAST}"):
        assert differences(cluster) == {("completions", "amount_ucr", ""): -1}
    with changed(cluster, f"DELETE FROM usage WHERE source_id = '{first_job.id}'"):
        tokens = first_job.describe()["trained_tokens"]
        assert differences(cluster) == {
            ("training", "trained_tokens", first_job.id): tokens,
            ("manifests", "trained_tokens", ""): tokens,
        }
    columns = "kind, account, user, role, function, base_model, model, prompt_tokens, completion_tokens, trained_tokens"
    columns += ", stored_bytes, price_version, amount_ucr, time"
    with changed(
        cluster, f"INSERT INTO usage (source_id, {columns}) SELECT 'forged', {columns} FROM usage WHERE id = {LAST}"
    ):
        assert differences(cluster)["completions", "records", ""] == -1
    assert differences(cluster) == {}
