"""May this caller ask this base model? The registry says so, and is not asked for each request (known.py)."""

from luthier.platform.access import Caller
from luthier.platform.registry.accounts import Accounts
from luthier.serve.known import Epoch, Known

FRESH_SECONDS = 2.0
"""What was revoked, or taken from the account's list, can be asked for at most so long; what is granted can at once, as
refusals are never known. Tuned models: serve/resolver.py."""


class ModelRights:
    def __init__(self, accounts: Accounts, epoch: Epoch) -> None:
        def ask(asked: tuple[Caller, str]) -> None:
            accounts.check_asks(*asked)

        self._known = Known(epoch, ask, accounts.check_asks_all, FRESH_SECONDS)

    async def check(self, caller: Caller, base_model: str) -> None:
        """NotAllowed says what is missing."""
        await self._known.get((caller, base_model))
