"""OpenAI's way to bring a file: multipart body -> scratch -> checked -> storage -> registry."""

import os
import shutil
import uuid
from pathlib import Path

from starlette.requests import Request

from luthier.errors import InvalidInput
from luthier.platform.access import Caller
from luthier.platform.files import BATCH_SECONDS, MAX_SECONDS, MIN_SECONDS, UPLOADED, Purpose, StoredFile, new_file_id
from luthier.platform.jobs import now_ms
from luthier.platform.storage import Storage, file_sha256, sync
from luthier.serve.doors.multipart import receive_files
from luthier.serve.doors.uploads import gone_if_refused
from luthier.serve.services import Services
from luthier.serve.threads import UPLOADS

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = ("purpose", ANCHOR, SECONDS)
ENDING = ".jsonl"
MAX_NAME = 200
"""Bytes."""


async def create_file(services: Services, caller: Caller, request: Request) -> StoredFile:
    """The request's one file."""
    scratch = Storage(services.settings.storage).uploads / uuid.uuid4().hex
    scratch.mkdir(parents=True)
    try:
        kind = request.headers.get("content-type", "")
        fields = await receive_files(kind, request.stream(), scratch, _check_name, FIELDS)
        return await UPLOADS.run(_store, services, caller, scratch, fields)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_name(name: str) -> None:
    if not name.isprintable() or len(name.encode()) > MAX_NAME:
        raise InvalidInput(f"file: a filename has at most {MAX_NAME} bytes, and no control characters.")
    if not name.lower().endswith(ENDING):
        raise InvalidInput(f"file: {name} must be JSON lines and end in {ENDING}.")


def _store(services: Services, caller: Caller, scratch: Path, fields: dict[str, str]) -> StoredFile:
    purpose = _purpose(fields)
    seconds = _seconds(fields, purpose)
    received = list(scratch.iterdir())
    if len(received) != 1 or not received[0].stat().st_size:
        raise InvalidInput("file: send one, and not an empty one.")
    file_id, now = new_file_id(), now_ms()
    file = StoredFile(
        id=file_id,
        account=caller.account,
        owner=caller.user,
        role=caller.role,
        filename=received[0].name,
        purpose=purpose,
        size=received[0].stat().st_size,
        sha256=file_sha256(received[0]),
        path=str(Storage(services.settings.storage).file(file_id)),
        created_on=now,
        expires_on=now + seconds * 1000 if seconds else None,
    )
    return _keep(services, file, received[0])


def _keep(services: Services, file: StoredFile, received: Path) -> StoredFile:
    final = Path(file.path)
    final.parent.mkdir(parents=True, exist_ok=True)
    sync(received)
    os.replace(received, final)
    sync(final.parent)
    with gone_if_refused(final):
        return services.registry.files.create(file)


def _purpose(fields: dict[str, str]) -> Purpose:
    given = fields.get("purpose", "")
    if given not in UPLOADED:
        raise InvalidInput(f"purpose: {given!r} is none of {', '.join(UPLOADED)}.")
    return Purpose(given)


def _seconds(fields: dict[str, str], purpose: Purpose) -> int | None:
    """How long it is kept; None: until it is deleted."""
    if not {ANCHOR, SECONDS} & set(fields):
        return BATCH_SECONDS if purpose is Purpose.BATCH else None
    if fields.get(ANCHOR) != "created_at":
        raise InvalidInput(f"{ANCHOR}: must be created_at.")
    seconds = fields.get(SECONDS, "")
    if not seconds.isdecimal() or not MIN_SECONDS <= int(seconds) <= MAX_SECONDS:
        raise InvalidInput(f"{SECONDS}: must be a whole number from {MIN_SECONDS} to {MAX_SECONDS}.")
    return int(seconds)
