"""The books of a replica: credits and rates come from leases, usage goes to the spool, each visit to the access log."""

import asyncio
import time

from luthier.errors import LuthierError
from luthier.platform.access import Caller
from luthier.platform.metering import UsageRecord
from luthier.platform.models import Resolved
from luthier.serve.complete import Visit
from luthier.serve.metering.access_log import CLIENT_GONE, AccessLog, Line
from luthier.serve.metering.engine_counts import Asked
from luthier.serve.metering.leases import Leases, Reservation
from luthier.serve.metering.rates import Allowance, Rates
from luthier.serve.metering.usage import UsageSpool


class ReplicaBooks:
    def __init__(
        self, spool: UsageSpool, leases: Leases, rates: Rates, log: AccessLog | None, asked: Asked | None = None
    ) -> None:
        """`asked` adds up all visits, billed or not."""
        self._spool, self._leases, self._rates, self._log, self._asked = spool, leases, rates, log, asked

    def check(self) -> None:
        self._spool.check()

    def reservation(self, caller: Caller) -> Reservation:
        return self._leases.open(caller)

    def allowance(self, caller: Caller, resolved: Resolved, gives_way: bool) -> Allowance:
        return self._rates.open(caller, resolved, gives_way)

    def settle(self, record: UsageRecord) -> None:
        self._spool.settle(record)

    def tell(self, visit: Visit) -> None:
        if self._asked:
            self._asked.add(visit)
        if self._log:
            self._log.add(line_of(visit))


def line_of(visit: Visit) -> Line:
    ask, tally = visit.ask, visit.tally
    status, code = _outcome(visit.error)
    adapter = visit.resolved.adapter if visit.resolved else None
    return {
        "id": ask.id,
        "account": ask.caller.account,
        "user": ask.caller.user,
        "function": ask.function,
        "base_model": ask.base_model,
        "model": visit.resolved.name if visit.resolved else ask.request.model,
        "version": adapter.version if adapter else None,
        "stream": visit.is_streamed,
        "status": status,
        "error": code,
        "finish": visit.finish,
        "prompt_tokens": tally.prompt,
        "completion_tokens": tally.completion,
        "queued_ms": _ms(tally.queued),
        "first_token_ms": _ms(tally.first),
        "ms": _ms(time.monotonic() - visit.began),
    }


def _outcome(error: BaseException | None) -> tuple[int, str | None]:
    """Status and error code."""
    if error is None:
        return 200, None
    if isinstance(error, LuthierError):
        return error.http, error.code
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return CLIENT_GONE, "client_gone"
    return LuthierError.http, LuthierError.code


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
