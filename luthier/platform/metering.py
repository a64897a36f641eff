"""Usage records: what was counted, at which price. Append-only, unique by (kind, source id)."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from luthier.errors import InvalidInput
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.prices import PriceList

SYSTEM = "SYSTEM"
"""Stands for user and role where nobody asked for anything; no user or role is called so."""
DAY_MS = 86_400_000


def check_name(name: str) -> None:
    """Of a new role or user."""
    if name == SYSTEM:
        raise InvalidInput(f"{SYSTEM} stands for the platform itself in what was used. Choose another name.")


class UsageKind(StrEnum):
    TRAINING = "training"
    COMPLETION = "completion"
    STORAGE = "storage"


class UsageRecord(Frozen):
    """Tokens by the engine's or trainer's own counters, bytes by the files; amount at `price_version`."""

    kind: UsageKind
    source_id: str
    """Job id, request id, or account and day: a second arrival of the same record changes nothing."""
    account: str
    user: str
    role: str
    key: str | None = None
    """The public id of the API key, where there was one."""
    function: str
    """FINETUNE, COMPLETE, STORAGE, or the dialect's route."""
    base_model: str
    model: str
    version: int | None = None
    """Of the tuned model that answered."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    trained_tokens: int = 0
    evaluated_tokens: int = 0
    """By a training run, beside what it trained; they cost nothing."""
    stored_bytes: int = 0
    """Of an account's models at an average moment of a day."""
    price_version: str
    amount_ucr: int
    time: int
    """Epoch milliseconds at which the work ended."""
    leases: tuple[str, ...] = ()
    """Reservations that pay for it (platform/credits.py). Told on the way to the ledger, no part of what it keeps."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.trained_tokens


class Source(Frozen):
    """What a record is about."""

    id: str
    function: str
    base_model: str
    price_class: str
    model: str
    version: int | None = None


def training_usage(
    caller: Caller, source: Source, prices: PriceList, tokens: tuple[int, int], time: int
) -> UsageRecord:
    """`tokens` are (trained, evaluated), from the trainer."""
    trained, evaluated = tokens
    return UsageRecord(
        kind=UsageKind.TRAINING,
        **_asked(caller, source),
        trained_tokens=trained,
        evaluated_tokens=evaluated,
        price_version=prices.version,
        amount_ucr=prices.training_ucr(source.price_class, trained),
        time=time,
    )


def completion_usage(
    caller: Caller, source: Source, prices: PriceList, tokens: tuple[int, int], time: int
) -> UsageRecord:
    """`tokens` are (prompt, completion), from the engine."""
    prompt, completion = tokens
    return UsageRecord(
        kind=UsageKind.COMPLETION,
        **_asked(caller, source),
        prompt_tokens=prompt,
        completion_tokens=completion,
        price_version=prices.version,
        amount_ucr=prices.completion_ucr(source.price_class, *tokens),
        time=time,
    )


def storage_usage(account: str, prices: PriceList, byte_ms: int, day: int) -> UsageRecord:
    """What an account's models took of storage on a day (its start), in bytes times milliseconds."""
    date = datetime.fromtimestamp(day / 1000, UTC).date().isoformat()
    return UsageRecord(
        kind=UsageKind.STORAGE,
        source_id=f"{account}:{date}",
        account=account,
        user=SYSTEM,
        role=SYSTEM,
        function="STORAGE",
        base_model="",
        model="",
        stored_bytes=-(-byte_ms // DAY_MS),
        price_version=prices.version,
        amount_ucr=prices.storage_ucr(byte_ms),
        time=day + DAY_MS - 1,
    )


def _asked(caller: Caller, source: Source) -> dict[str, Any]:
    return {**caller.model_dump(), "source_id": source.id, **source.model_dump(exclude={"id", "price_class"})}
