"""OpenAI's protocol: /v1/files."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from luthier.errors import NotFound
from luthier.platform.files import StoredFile
from luthier.platform.registry.paging import Page
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.file_uploads import FIELDS, create_file

MAX_LISTED = 10_000

router = APIRouter(prefix="/v1/files", tags=["OpenAI"])

_TEXT = {"type": "string"}
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, **dict.fromkeys(FIELDS, _TEXT)},
}
_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


@router.post("", openapi_extra=_BODY)
async def upload_file(request: Request, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """A multipart form: `file` (.jsonl), `purpose` (batch or fine-tune), and when it expires."""
    file = await create_file(services, caller, request)
    request.state.object = ("file", file.id)
    return file_object(file)


@router.get("")
def list_files(
    caller: CallerOf,
    services: ServicesOf,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    page = Page(limit=limit, after=after, oldest_first=order == "asc")
    found = services.registry.files.show(caller, page, purpose)
    return list_object([file_object(file) for file in found], limit)


@router.get("/{file_id}")
def get_file(file_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return file_object(services.registry.files.get(caller, file_id))


@router.get("/{file_id}/content")
def get_content(file_id: str, caller: CallerOf, services: ServicesOf) -> FileResponse:
    file = services.registry.files.get(caller, file_id)
    if not Path(file.path).is_file():
        raise NotFound(f"The bytes of file {file_id} are missing in storage.")
    return FileResponse(file.path, filename=file.filename, media_type="application/octet-stream")


@router.delete("/{file_id}")
def delete_file(file_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    file = services.registry.files.delete(caller, file_id)
    Path(file.path).unlink(missing_ok=True)
    return {"id": file_id, "object": "file", "deleted": True}


def file_object(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_on // 1000,
        "expires_at": file.expires_on and file.expires_on // 1000,
        "filename": file.filename,
        "purpose": file.purpose.value,
        "status": "processed",
        "status_details": None,
    }


def list_object(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page, of up to one object more than the limit."""
    data = found[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }
