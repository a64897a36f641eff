"""The native API on the ledger: the statement of an account, and the comparison with what was counted elsewhere."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from luthier.platform.registry.audit import Time
from luthier.platform.registry.usage import Selection, records_of
from luthier.platform.statement import MEDIA_TYPES, Format, lines
from luthier.serve.deps import CallerOf, ServicesOf

LINES_TOGETHER = 500

routes = APIRouter()


@routes.get("/statement")
def account_statement(
    caller: CallerOf,
    services: ServicesOf,
    since: Time = 0,
    until: Time = 2**62,
    form: Annotated[Format, Query(alias="format")] = "csv",
) -> StreamingResponse:
    """Every record of the account's ledger in a time, in epoch milliseconds, oldest first: CSV, or CloudEvents in
    lines of JSON, whose `source` and `id` are the same whenever they are asked for."""
    records = records_of(services.registry.usage, caller, Selection(since=since, until=until))
    return StreamingResponse(_together(lines(records, form)), media_type=MEDIA_TYPES[form])


@routes.get("/ledger/reconcile")
def reconcile(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The ledger of all accounts against replicas, engines, batches, jobs, manifests and limits, figure by figure."""
    services.registry.accounts.check_operator(caller)
    comparison = services.registry.reconcile
    return comparison.report(comparison.count()).model_dump()


def _together(parts: Iterator[str]) -> Iterator[str]:
    """Few large pieces: each is a step of its own for the server."""
    gathered: list[str] = []
    for part in parts:
        gathered.append(part)
        if len(gathered) == LINES_TOGETHER:
            yield "".join(gathered)
            gathered.clear()
    yield "".join(gathered)
