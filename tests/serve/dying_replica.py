"""A replica without Ray, HTTP and vLLM, in a process of its own that ends itself by SIGKILL at a moment.

python -m tests.serve.dying_replica HOME BASE_FOLDER MOMENT AFTER
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from luthier.errors import PaymentRequired
from luthier.platform.base_models import load_catalog
from luthier.platform.metering import UsageRecord
from luthier.platform.models import ModelVersion
from luthier.platform.prices import load_prices
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import configs_dir
from luthier.platform.wire import Choice, CompleteRequest
from luthier.serve.asks import Ask
from luthier.serve.complete import Completer, Tally
from luthier.serve.known import Epoch
from luthier.serve.metering.books import ReplicaBooks
from luthier.serve.metering.holders import Holders
from luthier.serve.metering.leases import Leases
from luthier.serve.metering.rates import Rates
from luthier.serve.metering.usage import UsageSpool
from luthier.serve.resolver import Resolver
from tests.factories import ADMIN, make_settings
from tests.fakes import EchoEngine, Launcher

NUM_AT_ONCE = 8
MADE = "made.jsonl"


class Counting(EchoEngine):
    """Writes down what it made for whom, before anybody else knows."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file.open("a")

    async def whole(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> list[Choice]:
        choices = await super().whole(ask, adapter, tally)
        self._file.write(json.dumps({"id": ask.id, "tokens": tally.prompt + tally.completion}) + "\n")
        self._file.flush()
        return choices


def deadly(call: Callable[..., object], moment: str, named: str, after: int) -> Callable[..., object]:
    """The call, which dies before or after what it does that often."""
    num = 0

    def run(*args: object) -> object:
        nonlocal num
        num += 1
        if moment == f"before {named}" and num > after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(*args)
        if moment == f"after {named}" and num > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return run


async def serve(home: Path, base_folder: Path, moment: str, after: int) -> None:
    """Asks itself, several at once, until the balance refuses or the moment is there."""
    settings = make_settings(home, base_folder)
    registry, folder = Registry(settings, Launcher()), home / "spool" / "tiny"
    holders = Holders(folder, registry.credits.end_holder)
    append: Callable[[list[UsageRecord]], int] = deadly(registry.ledger.append, moment, "append", after)  # type: ignore[assignment]
    spool = UsageSpool(folder, append, inherited=holders.inherited)
    books = ReplicaBooks(spool, Leases(registry.credits, holders.name), Rates(registry.rates, holders.name), None)
    books.settle = deadly(books.settle, moment, "settle", after)  # type: ignore[assignment]
    catalog = load_catalog(settings)
    resolver = Resolver(settings, catalog, registry.versions, Epoch(registry.versions.epoch))
    prices = load_prices(configs_dir() / "prices.toml")
    completer = Completer(catalog.get("tiny"), resolver, Counting(home / MADE), prices, books)
    spool.start()

    async def client(name: str) -> None:
        request = CompleteRequest(model="tiny", prompt="a b c d e", max_tokens=4)
        for number in range(10_000):
            await completer.whole(Ask(f"{name}_{number}", ADMIN, "COMPLETE", "tiny", request))

    async with asyncio.TaskGroup() as group:
        for number in range(NUM_AT_ONCE):
            group.create_task(client(f"req_{os.getpid()}_{number}"))


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
    except* PaymentRequired:
        sys.exit(402 % 256)
