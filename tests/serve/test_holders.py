"""Who follows a dead replica gives its leases back, once the dead one's usage is in the ledger and not before."""

from pathlib import Path

import pytest

from luthier.errors import Unavailable
from luthier.platform.credits import Want
from luthier.platform.metering import UsageRecord
from luthier.platform.registry.registry import Registry
from luthier.serve.metering.holders import Holders
from luthier.serve.metering.living import PROCESS
from luthier.serve.metering.usage import UsageSpool
from tests.factories import ADMIN, make_record
from tests.serve.spools import DEAD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dead replica's: it leased 50, and spooled 20 of them."""
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / f"{DEAD}-1.holder").write_text("dead")
    (folder / f"{DEAD}-1 (copy).holder").write_text("of somebody else")
    record = make_record("req_1", amount_ucr=20, leases=("l1",))
    (folder / f"{DEAD}-1.jsonl").write_text(record.model_dump_json() + "\n")
    return folder


@pytest.fixture
def leased(registry: Registry) -> Registry:
    registry.credits.top_up(ADMIN, "main", 100, "k1")
    want = Want(id="l1", account="main", turn=1, total_ucr=50, need_ucr=50)
    registry.credits.renew("dead", [], [want])
    return registry


def sums(registry: Registry) -> tuple[int, int, int, int]:
    balance = registry.credits.balance(ADMIN)
    return balance.available_ucr, balance.spent_ucr, balance.leased_ucr, balance.overrun_ucr


def test_an_heir_sends_usage_first(leased: Registry, folder: Path) -> None:
    heir = Holders(folder, leased.credits.end_holder)
    seen = []

    def append(records: list[UsageRecord]) -> int:
        seen.append(sums(leased))
        return leased.ledger.append(records)

    UsageSpool(folder, append, inherited=heir.inherited).flush()
    assert seen == [(50, 0, 50, 0)]
    assert sums(leased) == (80, 20, 0, 0)
    assert [file.read_text() for file in folder.glob("*-?.holder")] == [heir.name]


def test_while_the_registry_is_away_nothing_comes_back(leased: Registry, folder: Path) -> None:
    ended: list[str] = []

    def away(_about: object) -> int:
        raise Unavailable("away")

    heir = Holders(folder, ended.append)
    spool = UsageSpool(folder, away, inherited=heir.inherited)
    with pytest.raises(Unavailable):
        spool.flush()
    assert ended == []

    spool = UsageSpool(folder, leased.ledger.append, inherited=Holders(folder, away).inherited)
    with pytest.raises(Unavailable):
        spool.flush()
    assert sums(leased) == (50, 20, 30, 0)
    UsageSpool(folder, leased.ledger.append, inherited=Holders(folder, leased.credits.end_holder).inherited).flush()
    assert sums(leased) == (80, 20, 0, 0)


def test_the_living_are_left_alone(leased: Registry, tmp_path: Path) -> None:
    ended: list[str] = []
    first, second = (Holders(tmp_path / "own", lambda name: ended.append(name) or 0) for _ in range(2))
    second.inherited()
    assert ended == []
    assert first.name != second.name
    assert sorted(file.name for file in (tmp_path / "own").glob("*.holder")) == [
        f"{PROCESS}-{number}.holder" for number in (1, 2)
    ]
