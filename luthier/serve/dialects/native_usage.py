"""The native API on the ledger: its records and sums, an account's statement, the comparison with other counters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter, ValidationError

from luthier.errors import InvalidInput
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.prices import to_credits
from luthier.platform.registry.audit import Time
from luthier.platform.registry.usage import MAX_PAGE, GroupBy, Selection, records_of
from luthier.platform.statement import MEDIA_TYPES, Format, lines
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.pages import Behind, paged

LINES_TOGETHER = 500
KINDS = {"finetuning": UsageKind.TRAINING, "completions": UsageKind.COMPLETION, "storage": UsageKind.STORAGE}

routes = APIRouter()

BEHIND = TypeAdapter[int](Behind)
Groups = Annotated[list[GroupBy] | None, Query()]


@dataclass
class Which:
    """Records of usage, or sums of them, page by page."""

    since: Time = 0
    until: Time = 2**62
    after: str | None = None
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE

    @property
    def num_before(self) -> int:
        """Sums of earlier pages."""
        try:
            return BEHIND.validate_python(self.after or 0)
        except ValidationError as error:
            raise InvalidInput(f"after: {self.after!r} is no `next` of an answer with sums.") from error


@routes.get("/usage/{kind}")
def usage(
    kind: Literal["finetuning", "completions", "storage", "credits"],
    caller: CallerOf,
    services: ServicesOf,
    which: Annotated[Which, Depends()],
    group_by: Groups = None,
) -> dict[str, Any]:
    """Records of one kind, or (`credits`, or with `group_by`) sums. Times in epoch milliseconds.

    Records are told in the order in which they came to the ledger, sums in that of what they are grouped by; `next` is
    the `after` of the next page.
    """
    reader, of = services.registry.usage, Selection(kind=KINDS.get(kind), since=which.since, until=which.until)
    if kind == "credits" or group_by:
        behind = which.num_before
        sums = reader.sums(caller, ["kind", *dict.fromkeys(group_by or [])], of, which.limit, behind)
        more = {"next": str(behind + which.limit)} if len(sums) == which.limit else {}
        return {"usage": [{**row, "credits": str(to_credits(row["amount_ucr"]))} for row in sums], **more}
    page = reader.page_behind(caller, of, which.after, which.limit)
    return paged("usage", page, which.limit, lambda record: record.source_id, map(_record_told, page))


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


def _record_told(record: UsageRecord) -> dict[str, Any]:
    return {**record.model_dump(), "credits": str(to_credits(record.amount_ucr))}


def _together(parts: Iterator[str]) -> Iterator[str]:
    """Few large pieces: each is a step of its own for the server."""
    gathered: list[str] = []
    for part in parts:
        gathered.append(part)
        if len(gathered) == LINES_TOGETHER:
            yield "".join(gathered)
            gathered.clear()
    yield "".join(gathered)
