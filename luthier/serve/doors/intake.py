"""What comes in, bounded before it costs anything: who sends it, how much, how fast, and how much of all is here.

One pure ASGI middleware for gateway and replicas; no body is buffered here. It wants the request's id.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.errors import TooLarge, TooSlow
from luthier.platform.keys import READING
from luthier.platform.settings import MIB, Settings
from luthier.serve.admission import Admission
from luthier.serve.asks import BodyRoom
from luthier.serve.doors.deps import KeyCheck
from luthier.serve.doors.json_size import JsonSize
from luthier.serve.threads import PROMPTS, Answer, Given

SMALL = 1 << 16
"""A body of so many bytes or fewer is in the server's memory before anybody asks for it, and read in milliseconds."""
LINGER_SECONDS, LINGER_BYTES = 5.0, 64 * MIB
UPLOAD_PATHS = ("/luthier/v1/tables", "/luthier/v1/models", "/v1/files")
"""Here a body is a file, and goes to the disk as it comes."""


class Intake:
    """The bounds of a process, by its settings; what all bodies take together is shared by accounts."""

    def __init__(self, settings: Settings, keys: KeyCheck) -> None:
        self.settings, self.keys = settings, keys
        words = "Too much comes in at once: {} bytes of requests are here"
        self.room = Admission(0, settings.max_bodies_mib * MIB, words=words)

    def before(self, app: ASGIApp) -> ASGIApp:
        async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] in READING:
                await app(scope, receive, send)
                return
            with BodyRoom() as held:
                scope["state"]["room"] = held
                incoming = _Incoming(self, scope, receive, send, held)
                await app(scope, incoming.receive, incoming.send if incoming.is_long else send)

        return bounded


class _Incoming:
    """One request's body, and how its answer ends where the body has not."""

    def __init__(self, intake: Intake, scope: Scope, receive: Receive, send: Send, held: ExitStack) -> None:
        """`held` ends with the request: until then it may have what came."""
        self._intake, self._scope, self._receive, self._send, self._held = intake, scope, receive, send, held
        self._is_file = scope["path"] in UPLOAD_PATHS
        headers = dict(scope["headers"])
        self._declared = int(headers.get(b"content-length", 0))
        self.is_long = self._declared > SMALL or b"transfer-encoding" in headers
        self._account = ""
        self._num_read = self._num_held = 0
        self._began = time.monotonic()
        self._size = JsonSize()
        self._is_whole = self._is_cut = False

    async def receive(self) -> Message:
        """The next piece. LuthierError when it may not come."""
        if self._is_whole:
            return await self._receive()
        if not self._account:
            await self._open()
        message = await (self._receive() if self._is_file else self._in_time())
        piece = message.get("body", b"")
        self._num_read += len(piece)
        self._is_whole = not message.get("more_body")
        if not self._is_whole or self._num_read > SMALL:
            self._check_limit()
            if not self._is_file:
                self._take_room()
                self._size.add(piece)
        return message

    async def send(self, message: Message) -> None:
        """An answer that comes before the body's end closes the connection, after a while.

        While bytes come that nobody reads, the kernel resets a connection that is closed, and the answer with it.
        """
        if message["type"] == "http.response.start" and not self._is_whole:
            self._is_cut = True
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        elif self._is_cut and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._drop_rest()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _open(self) -> None:
        """No byte of a stranger's is read."""
        state = self._scope["state"]
        session = state.get("session") or await self._intake.keys.open(self._scope)
        self._account = session.caller.account
        self._check_limit()

    def _check_limit(self) -> None:
        settings = self._intake.settings
        limit_mib = settings.max_upload_mib if self._is_file else settings.max_body_mib
        if max(self._declared, self._num_read) > limit_mib * MIB:
            raise TooLarge(f"The request body is over the limit of {limit_mib} MiB.")

    def _take_room(self) -> None:
        """Of what is declared at once, so that who has no room sends nothing more; else of each piece."""
        num = min(max(self._declared, self._num_read), self._intake.room.most) - self._num_held
        if num > 0:
            self._held.enter_context(self._intake.room.place(self._account, num))
            self._num_held += num

    async def _in_time(self) -> Message:
        """Some seconds for each MiB, begun or not: fast enough for any line, and nobody holds room for ever."""
        seconds = self._intake.settings.reader_timeout_s * (1 + self._num_read // MIB)
        try:
            async with asyncio.timeout(self._began + seconds - time.monotonic()):
                return await self._receive()
        except TimeoutError as error:
            told = f"After {seconds} s the request body has not come: {self._num_read} bytes are here. Send it again."
            raise TooSlow(told) from error

    async def _drop_rest(self) -> None:
        until, num = time.monotonic() + LINGER_SECONDS, 0
        with suppress(TimeoutError):
            while not self._is_whole and num < LINGER_BYTES:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await self._receive()
                num += len(message.get("body", b""))
                self._is_whole = not message.get("more_body")


async def beside(body: bytes, call: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
    """In a thread where the body is long, in steps of tens of milliseconds at the most (`JsonSize`)."""
    return await PROMPTS.run(call, *args, **kwargs) if len(body) > SMALL else call(*args, **kwargs)
