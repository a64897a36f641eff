"""The native API on the audit: its rows, and whether its chain is whole."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from luthier.platform.access import Caller
from luthier.platform.audit import Verdict, Walk, parse_anchor
from luthier.platform.registry.audit import Audit, Search
from luthier.serve.doors.deps import CallerOf, ServicesOf

routes = APIRouter(prefix="/audit")

Word = Annotated[str | None, Query(max_length=1000)]


@routes.get("")
def list_audit(caller: CallerOf, services: ServicesOf, search: Annotated[Search, Query()]) -> dict[str, Any]:
    """Newest first; `next` is the `before` of the next page. `unknown`: refusals of callers that nobody knows."""
    rows = services.registry.audit.show(caller, search)
    following = rows[-1].number if len(rows) == search.limit else None
    return {"audit": [row.model_dump() for row in rows], "next": following}


@routes.get("/verify")
def verify_audit(caller: CallerOf, services: ServicesOf, anchor: Word = None, unknown: bool = False) -> dict[str, Any]:
    """Walks the chain. `anchor` is COUNT:HASH of an earlier walk: what was there then must be there still."""
    verdict = walk(services.registry.audit, caller, anchor, unknown)
    return {**verdict.model_dump(exclude={"anchor"}), "rows": verdict.anchor.count, "anchor": str(verdict.anchor)}


def walk(audit: Audit, caller: Caller, anchor: str | None, unknown: bool) -> Verdict:
    """Page by page, so that the registry answers others in between. Up to the end that it had at first."""
    head = audit.head(caller, unknown)
    walking = Walk(parse_anchor(anchor) if anchor else None)
    after = 0
    while after < head.count and not walking.is_over:
        rows = [row for row in audit.page(caller, after, unknown) if row.number <= head.count]
        if not rows:
            break
        walking.add(rows)
        after = rows[-1].number
    return walking.verdict(head)
