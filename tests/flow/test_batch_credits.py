"""Batches pay out of leases of the process that bills them."""

from starlette.testclient import TestClient

from luthier.platform.base_models import load_catalog
from luthier.platform.jobs import now_ms
from luthier.platform.prices import load_prices
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.wire import CompleteRequest
from luthier.serve.batches.batch_line import most_ucr
from tests.factories import ADMIN
from tests.fakes import Launcher
from tests.flow.batches import chat_line, content, create_batch, ended

PRICES = load_prices(configs_dir() / "prices.toml")


def test_lines_are_paid_by_the_balance(api: TestClient, registry: Registry) -> None:
    registry.credits.top_up(ADMIN, "main", 1_000, "k1")
    batch = create_batch(api, [chat_line(f"l{number}") for number in range(40)])
    done = ended(api, batch["id"])
    assert done["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    balance = registry.credits.balance(ADMIN)
    assert balance.spent_ucr == 40 * PRICES.completion_ucr("small", 3, 4)
    assert balance.overrun_ucr == 0


def test_lines_that_the_balance_does_not_cover_are_refused(api: TestClient, registry: Registry) -> None:
    registry.credits.limit(ADMIN, "main")
    batch = create_batch(api, [chat_line("a"), chat_line("b")])
    done = ended(api, batch["id"])
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    assert [line["response"]["status_code"] for line in content(api, done["error_file_id"])] == [402, 402]


def test_what_a_killed_gateway_leased_comes_back_in_minutes(
    api: TestClient, registry: Registry, settings: Settings
) -> None:
    registry.credits.top_up(ADMIN, "main", 10_000, "k1")
    ended(api, create_batch(api, [chat_line("a")])["id"])
    for minutes, is_leased in ((0, True), (4, True), (6, False)):
        later = Registry(settings, Launcher(), lambda ahead=minutes * 60_000: now_ms() + ahead)  # type: ignore[misc]
        assert (later.credits.balance(ADMIN).leased_ucr > 0) == is_leased


def test_a_line_reserves_what_fits_into_the_context(settings: Settings) -> None:
    base = load_catalog(settings).get("tiny")
    room = base.engine.max_model_len
    for limit in (None, 1, 100, room - 1):
        for n in (1, 5):
            request = CompleteRequest(model="tiny", prompt="a", max_tokens=limit, n=n)
            shapes = [(prompt, min(limit or 4096, room - prompt)) for prompt in range(1, room)]
            fitting = [shape for shape in shapes if limit is None or shape[1] == limit]
            most = max(PRICES.completion_ucr("small", prompt, made * n) for prompt, made in fitting)
            assert most_ucr(request, base, PRICES) >= most
