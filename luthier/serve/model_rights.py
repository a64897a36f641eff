"""May this caller ask this base model? By what the registry says, remembered for a moment: no call for each request."""

import time
from collections.abc import Callable

from luthier.errors import NotAllowed
from luthier.platform.access import Caller
from luthier.platform.privileges import Action, Rights, missing
from luthier.platform.registry.accounts import Accounts
from luthier.platform.securables import ObjectKind, Securable
from luthier.serve.remember import Remembered

SOFT_SECONDS, FRESH_SECONDS = 1.0, 2.0
"""What was revoked, or taken from the account's list, can be asked for at most FRESH_SECONDS. Tuned models end sooner:
serve/resolver.py."""


class ModelRights:
    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._known = Remembered(accounts.model_rights, SOFT_SECONDS, FRESH_SECONDS, clock)

    async def check(self, caller: Caller, base_model: str) -> None:
        """NotAllowed says what is missing."""
        about = Securable(ObjectKind.BASE_MODEL, name=base_model)
        if lacks := missing(Action.COMPLETE_BASE, await self._known.get(caller), about):
            raise NotAllowed(lacks.sentence(caller.role, Action.COMPLETE_BASE))


def may_ask(rights: Rights, base_model: str) -> bool:
    return missing(Action.COMPLETE_BASE, rights, Securable(ObjectKind.BASE_MODEL, name=base_model)) is None
