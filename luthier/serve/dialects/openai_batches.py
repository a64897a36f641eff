"""OpenAI's protocol: /v1/batches."""

from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import Field

from luthier.platform.batches import WINDOW_MS, Batch, BatchStatus, Endpoint, new_batch_id
from luthier.platform.files import MAX_SECONDS, MIN_SECONDS
from luthier.platform.frozen import Frozen
from luthier.platform.jobs import now_ms
from luthier.platform.registry.paging import Page
from luthier.serve.batches.batching import Batching
from luthier.serve.dialects.openai_files import list_object
from luthier.serve.doors.bodies import Metadata
from luthier.serve.doors.deps import CallerOf, IdempotencyKey, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.threads import REGISTRY

MAX_LISTED = 100

router = JsonRouter(prefix="/v1/batches", tags=["OpenAI"])


class ExpiresAfter(Frozen):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_SECONDS, le=MAX_SECONDS)


class CreateBatch(Frozen):
    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


@router.post("")
async def create_batch(
    request: Request, body: CreateBatch, caller: CallerOf, services: ServicesOf, key: IdempotencyKey = None
) -> dict[str, Any]:
    """A batch over a file that was uploaded with purpose `batch`. Faults of the file are told in `errors`, later."""
    now = now_ms()
    batch = Batch(
        id=new_batch_id(caller, key),
        account=caller.account,
        owner=caller.user,
        role=caller.role,
        key=caller.key,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        metadata=body.metadata,
        output_seconds=body.output_expires_after.seconds if body.output_expires_after else None,
        created_on=now,
        expires_on=now + WINDOW_MS,
    )
    request.state.object = ("batch", batch.id)
    accepted = await REGISTRY.run(services.registry.batches.submit, batch)
    batching: Batching = request.app.state.batching
    batching.wake()
    return batch_object(accepted)


@router.get("")
def list_batches(
    caller: CallerOf,
    services: ServicesOf,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20,
) -> dict[str, Any]:
    """Newest first."""
    found = services.registry.batches.show(caller, Page(limit=limit, after=after))
    return list_object([batch_object(batch) for batch in found], limit)


@router.get("/{batch_id}")
def get_batch(batch_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return batch_object(services.registry.batches.get(caller, batch_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """What is answered by then can still be read."""
    return batch_object(services.registry.batches.cancel(caller, batch_id))


def batch_object(batch: Batch) -> dict[str, Any]:
    faults = [fault.model_dump() for fault in batch.faults]
    reached = {f"{status.value}_at": batch.reached.get(status) for status in BatchStatus}
    del reached["validating_at"]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_on // 1000,
        "expires_at": batch.expires_on // 1000,
        **{name: at and at // 1000 for name, at in reached.items()},
        "request_counts": batch.counts.model_dump(),
        "metadata": batch.metadata,
    }
