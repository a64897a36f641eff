"""The body of an answer to a statement: written piece by piece, in memory while it is small, then in a file.

It is whole before the first byte of it is sent: what fails on the way is an error, not half an answer.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pyarrow as pa
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from luthier.errors import Unavailable
from luthier.serve.answer_room import Held
from luthier.serve.dialects.sql_rows import Write, pieces
from luthier.serve.threads import ANSWERS

IN_MEMORY = 2**20
"""Bytes of one answer."""
PART = 2**18


class Body:
    """Bytes that are read once. They keep their room until `end`."""

    closed = False
    """Arrow asks it of what it writes to."""

    def __init__(self, rows: pa.RecordBatchReader, write: Write, room: Held, folder: Callable[[], Path]) -> None:
        """A large one is in a file of that folder, which has no name and ends with this process."""
        self._room, self._folder = room, folder
        self._bytes: IO[bytes] = BytesIO()
        self.num_bytes, self._is_file = 0, False
        try:
            write(rows.schema, pieces(rows), self)
            with _room_on_disk():
                self._bytes.seek(0)
        except BaseException:
            self.close()
            raise

    def write(self, part: bytes) -> int:
        self._room.grow(self.num_bytes + len(part))
        with _room_on_disk():
            if not self._is_file and self.num_bytes + len(part) > IN_MEMORY:
                self._move()
            self._bytes.write(part)
        self.num_bytes += len(part)
        return len(part)

    def flush(self) -> None:
        """Nothing reads it before it is whole."""

    async def parts(self) -> AsyncIterator[bytes]:
        while part := await self._read():
            yield part

    async def end(self) -> None:
        """A file in a thread, whatever becomes of who asks: its storage may hang."""
        if self._is_file:
            await asyncio.shield(ANSWERS.run(self.close))
        else:
            self.close()

    def close(self) -> None:
        with suppress(OSError):  # of what the disk did not take, and nobody reads
            self._bytes.close()
        self._room.end()

    def _move(self) -> None:
        file = TemporaryFile(dir=self._folder(), buffering=PART)  # noqa: SIM115 - `close` closes it
        self._bytes.seek(0)
        file.write(self._bytes.read())
        self._bytes, self._is_file = file, True

    async def _read(self) -> bytes:
        return await ANSWERS.run(self._bytes.read, PART) if self._is_file else self._bytes.read(PART)


@contextmanager
def _room_on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable("There is no room for the answer on the server's disk. Try again later.") from error


class Answer(StreamingResponse):
    """Sends a body, and gives back its room when it is sent, or nobody takes it any more."""

    def __init__(self, body: Body, media_type: str) -> None:
        super().__init__(body.parts(), media_type=media_type, headers={"Content-Length": str(body.num_bytes)})
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.end()
