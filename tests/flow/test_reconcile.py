"""`luthier ledger reconcile` through the real HTTP app: exit status, JSON, own account only."""

import json

import pytest
from click.testing import CliRunner, Result

from luthier.cli.main import main
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.metering.usage import UsageSpool
from tests.factories import KEY, make_record
from tests.flow.conftest import error_of
from tests.flow.people import Join, join  # noqa: F401 - a fixture


@pytest.fixture
def reconcile(server: str, monkeypatch: pytest.MonkeyPatch) -> "Reconcile":
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    return Reconcile()


class Reconcile:
    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["ledger", "reconcile", *words])


def test_nothing(reconcile: Reconcile) -> None:
    result = reconcile()
    assert (result.exit_code, "batches" in result.output) == (0, True)


def test_a_difference_is_exit_status_1(reconcile: Reconcile, registry: Registry, settings: Settings) -> None:
    spool = UsageSpool(settings.home / "spool" / "tiny", registry.ledger.append)
    spool.settle(make_record("a", time=10**15))
    spool.flush()
    assert reconcile().exit_code == 0
    registry.ledger.append([make_record("b", time=10**15)])
    result = reconcile()
    assert (result.exit_code, result.stderr) == (1, "The ledger differs from what was counted.\n")
    told = reconcile("--json")
    assert told.exit_code == 1
    assert [check["difference"] for check in json.loads(told.stdout)["checks"] if check["what"] == "records"] == [-1]


@pytest.mark.parametrize("who", [("PUBLIC", "ANN", "main"), ("ANALYST", "ANN", "main"), ("ACCOUNTADMIN", "admin", "b")])
def test_the_whole_ledger_is_for_who_runs_the_platform(join: Join, who: tuple[str, str, str]) -> None:  # noqa: F811
    response = join(*who).get("/luthier/v1/ledger/reconcile")
    assert "runs the platform" in error_of(response, 403, "not_authorized")
