"""May this caller ask this base model? The registry says so, and is asked every few seconds, not for each request."""

import time
from collections.abc import Callable

from luthier.platform.access import Caller
from luthier.platform.registry.accounts import Accounts
from luthier.serve.remember import Remembered

SOFT_SECONDS, FRESH_SECONDS = 1.0, 2.0
"""What was revoked, or taken from the account's list, can be asked for at most FRESH_SECONDS; what is granted can at
once, as refusals are never remembered. Tuned models: serve/resolver.py."""


class ModelRights:
    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.monotonic) -> None:
        def ask(asked: tuple[Caller, str]) -> None:
            accounts.check_asks(*asked)

        self._known = Remembered(ask, SOFT_SECONDS, FRESH_SECONDS, clock)

    async def check(self, caller: Caller, base_model: str) -> None:
        """NotAllowed says what is missing."""
        await self._known.get((caller, base_model))
