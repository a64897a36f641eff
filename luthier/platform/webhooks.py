"""Notices of what happens to an account's money, and the webhooks that they are sent to. Pure.

Format and signature: Standard Webhooks (github.com/standard-webhooks/standard-webhooks).
"""

import base64
import hashlib
import hmac
import json
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from luthier.platform.frozen import Frozen
from luthier.platform.told import Told

IDS = uuid.UUID("5d0f1d1e-6a2c-4a54-9e9e-0d3f7b6f5c11")
"""Ids of notices are made in this namespace."""
PAUSES_S = (5, 30, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After each attempt that failed; after the last one a delivery is given up."""
REST_S = PAUSES_S[:4]
"""Nothing is sent to a webhook for so long, after so many failures one after another."""
MOST_AGE_MS = 4 * 86_400_000
"""Of a notice: what fails later is given up, and with it what else is so old."""
KEPT_MS = 30 * 86_400_000
"""After it was delivered or given up."""
MAX_UNDER_WAY, MAX_OF_ACCOUNT = 50, 4
"""Attempts at a time, one for each webhook: of all, and of one account."""
MAX_WAITING = 100
"""Deliveries of an account; beyond it there are no tests."""
MAX_TESTS = 100
"""Of an account, in an hour."""
MAX_WEBHOOKS = 20
"""Of an account."""
MAX_TOLD = 200
"""Characters of why an attempt failed."""


class NoticeType(StrEnum):
    BUDGET_PASSED = "budget.passed"
    """A soft budget, for the first time in its period."""
    BUDGET_REFUSED = "budget.refused"
    """A hard one refused something, for the first time in its period."""
    BUDGET_SHORTENED = "budget.shortened"
    """A job's own ends it before its duration does."""
    BALANCE_LOW = "balance.low"
    """What is left of the balance is under the level that was set."""
    BALANCE_REFUSED = "balance.refused"
    """The balance refused something, for the first time since the last top-up."""
    BALANCE_OVERDRAWN = "balance.overdrawn"
    """More was spent than there was, as storage may, for the first time since the last top-up."""
    TEST = "webhook.test"


class Notice(Frozen):
    id: str
    """Of the same thing it is the same: whoever gets it twice counts it once."""
    account: str
    type: NoticeType
    time: int
    data: dict[str, Any]


class Webhook(Frozen):
    """Where an account's notices go."""

    id: str
    account: str
    url: str
    types: tuple[NoticeType, ...] | None = Field(None, min_length=1)
    """None: all."""
    created_on: int
    created_by: str
    ended_on: int | None = None
    """When its server said 410 Gone: it gets nothing more."""


class Delivery(Frozen):
    """One notice on its way to one webhook."""

    number: int
    attempt: int
    """Begins at 1."""
    notice: Notice
    webhook: Webhook


class Outcome(Frozen):
    """Of an attempt."""

    is_taken: bool = False
    is_gone: bool = False
    """The server wants nothing more."""
    told: Told = ""
    """Why it was not taken."""


class DeliveryState(Frozen):
    """How far a notice has come on its way to a webhook."""

    webhook: str
    attempts: int
    taken_on: int | None = None
    given_up_on: int | None = None
    next_on: int | None = None
    told: str = ""


class NoticeInfo(Notice):
    """A notice as it is shown."""

    deliveries: list[DeliveryState] = []


def new_webhook_id() -> str:
    return f"wh_{uuid.uuid4().hex}"


def notice_id(type: NoticeType, account: str, *of: object) -> str:
    """One for each thing that is told once."""
    return f"msg_{uuid.uuid5(IDS, json.dumps([type.value, account, *of])).hex}"


def pause_s(attempt: int) -> int | None:
    """After an attempt that failed; None: it was the last."""
    return PAUSES_S[attempt - 1] if attempt <= len(PAUSES_S) else None


def rest_s(failures: int) -> int:
    """After failures in a row."""
    return REST_S[min(failures, len(REST_S)) - 1]


def body_of(notice: Notice) -> str:
    """What is sent; the same in each attempt."""
    time = datetime.fromtimestamp(notice.time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"type": f"luthier.{notice.type}", "timestamp": time, "data": {"account": notice.account, **notice.data}}
    return json.dumps(told)


def secret_of(master: bytes, webhook_id: str) -> str:
    """A webhook's secret comes of its id and the home's: the store holds none."""
    return f"whsec_{base64.b64encode(hmac.digest(master, webhook_id.encode(), hashlib.sha256)).decode()}"
