"""The shortest way from a socket to an engine: completions as bare ASGI, everything else behind them.

key -> caller -> body -> base model -> answer, with no framework in between. A client that leaves ends the generation.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.errors import LuthierError
from luthier.platform.request_ids import front_secret
from luthier.platform.wire import Chunk, CompleteRequest
from luthier.serve.asks import Ask
from luthier.serve.doors.answer import Writer
from luthier.serve.doors.auditing import Audited, Auditor
from luthier.serve.doors.bodies import Body, ChatBody, CompletionBody
from luthier.serve.doors.deps import KeyCheck
from luthier.serve.doors.faults import Refusal, error_response
from luthier.serve.doors.intake import Intake, beside
from luthier.serve.doors.leaving import while_there
from luthier.serve.doors.middleware import Logged, RequestId
from luthier.serve.doors.refusals import read_body
from luthier.serve.metering.rate_headers import rate_headers
from luthier.serve.services import Services

Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """Nobody is there to be answered."""


class Asked(Protocol):
    """What a body tells."""

    @property
    def model(self) -> str: ...

    @property
    def stream(self) -> bool | None: ...

    def request(self) -> CompleteRequest: ...


class Writing(Protocol):
    """How an answer is written, whole or in lines."""

    def whole(self, answer: Chunk) -> bytes: ...

    def opening(self, num_choices: int) -> bytes: ...

    def lines(self, chunk: Chunk) -> bytes: ...

    def broken(self, error: LuthierError) -> bytes: ...


@dataclass(frozen=True)
class Route:
    """What tells the routes apart, and one dialect from another."""

    body: type[Asked]
    function: str
    """For the ledger."""
    writer: Callable[[str, Any], Writing]
    """Of a request's id and its body."""
    read: Callable[[type[Any], bytes], Asked] = read_body
    refusal: Refusal = error_response
    stream_type: bytes = b"text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Reply:
    """What an answer needs of a body. The body itself is not kept: its room is given back before the answer ends."""

    writing: Writing
    is_streamed: bool


def writer_of(request_id: str, body: Body) -> Writer:
    """OpenAI's."""
    return Writer(request_id, body.model, isinstance(body, ChatBody), body.wants_usage)


ROUTES = {
    "/v1/chat/completions": Route(ChatBody, "CHAT_COMPLETIONS", writer_of),
    "/v1/completions": Route(CompletionBody, "COMPLETIONS", writer_of),
}


class Direct:
    """An ASGI app in front of another, `rest`, which gets all but the POSTs whose path has a route."""

    def __init__(
        self,
        services: Services,
        intake: Intake,
        auditor: Auditor,
        route_of: Callable[[str], Route | None],
        rest: ASGIApp,
    ) -> None:
        def door(route: Route) -> ASGIApp:
            app: ASGIApp = Audited(intake.before(Completing(services, intake.keys, route)), auditor)
            return RequestId(Logged(app, services.access_log) if services.access_log else app, secret)

        self._route_of, self._door, self._rest = route_of, door, rest
        secret = front_secret(services.settings.home)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = self._route_of(scope["path"].removeprefix(scope.get("root_path", ""))) if is_post else None
        await (self._door(route) if route else self._rest)(scope, receive, send)


class Completing:
    """One of the routes. It wants the request's id in the scope."""

    def __init__(self, services: Services, keys: KeyCheck, route: Route) -> None:
        self._services, self._keys, self._route = services, keys, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ask, reply = await self._ask(scope, receive)
        except ClientGone:
            return
        except Exception as error:
            await self._refuse(error, scope, receive, send)
            return
        try:
            await self._answer(ask, reply, scope, receive, send)
        finally:
            scope["state"]["is_told"] = self._services.only is not None and ask.told.is_so

    async def _answer(self, ask: Ask, reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = []
        async with while_there(receive), aclosing(self._parts(ask, reply, headers)) as parts:
            try:
                part = await anext(parts)
            except Exception as error:
                await self._refuse(error, scope, receive, send)
                return
            headers += [*self._headers(ask, reply, part), *self._services.retirement_headers(ask.base_model)]
            ask.room.close()  # a replica elsewhere has read it
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": part, "more_body": reply.is_streamed})
            if reply.is_streamed:
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})

    async def _ask(self, scope: Scope, receive: Receive) -> tuple[Ask, Reply]:
        scope["state"]["action"] = "complete"  # no route of FastAPI's names it
        session = await self._keys.open(scope)
        caller = session.caller
        raw = await _read(receive)
        body = await beside(raw, self._route.read, self._route.body, raw)
        scope["state"]["object"] = ("model", body.model)
        self._services.check_model(session, body.model)
        request = await beside(raw, body.request)
        base_model = await self._services.base_model_of(caller, body.model)
        state = scope["state"]
        ask = Ask(state["id"], caller, self._route.function, base_model, request, room=state["room"])
        return ask, Reply(self._route.writer(ask.id, body), is_streamed=bool(body.stream))

    async def _parts(self, ask: Ask, reply: Reply, headers: Headers) -> AsyncGenerator[bytes, None]:
        """The answer as it is sent: one part, or one for each piece of a stream. With the first come headers."""
        writer = reply.writing
        if not reply.is_streamed:
            answer = await self._services.completions.whole(ask)
            headers += _answer_headers(answer)
            yield writer.whole(answer)
            return
        async with aclosing(self._services.completions.stream(ask)) as chunks:
            # An error of the first piece still has its own status; the opening goes out together with it.
            first = await anext(chunks)
            headers += _answer_headers(first)
            yield writer.opening(ask.request.num_choices) + writer.lines(first)
            try:
                async for chunk in chunks:
                    yield writer.lines(chunk)
            except LuthierError as error:
                yield writer.broken(error)

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        await self._route.refusal(Request(scope), error)(scope, receive, send)
        if not isinstance(error, LuthierError | ValidationError | HTTPException):
            raise error  # the server logs it

    def _headers(self, ask: Ask, reply: Reply, part: bytes) -> Headers:
        """HAProxy learns from the base model where to send this caller's next."""
        base_model = (b"luthier-base-model", ask.base_model.encode())
        if reply.is_streamed:
            return [base_model, (b"content-type", self._route.stream_type)]
        return [base_model, (b"content-type", b"application/json"), (b"content-length", str(len(part)).encode())]


def _answer_headers(answer: Chunk) -> Headers:
    """Which version of a tuned model answers, and how the rate limits of who asked stand."""
    headers = [] if answer.version is None else [(b"luthier-model-version", str(answer.version).encode())]
    if answer.rates:
        headers += [(name.encode(), value.encode()) for name, value in rate_headers(answer.rates).items()]
    return headers


async def _read(receive: Receive) -> bytes:
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
    raise ClientGone
