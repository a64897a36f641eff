"""One line of a batch: checked and answered as a live request is, but later, and for as long as it takes."""

import asyncio
import json
import logging
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted

from luthier.errors import LuthierError, PaymentRequired, RateLimited, Unavailable
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel
from luthier.platform.batches import Batch, Line, LineResult, source_id
from luthier.platform.metering import UsageRecord
from luthier.platform.prices import PriceList
from luthier.platform.wire import Chunk, CompleteRequest
from luthier.serve.asks import Ask
from luthier.serve.complete import Billed, bill
from luthier.serve.doors.direct import ROUTES, Asked
from luthier.serve.doors.faults import error_body
from luthier.serve.doors.intake import beside
from luthier.serve.doors.refusals import invalid
from luthier.serve.engines.inputs import DEFAULT_MAX_TOKENS
from luthier.serve.metering.leases import Leases
from luthier.serve.room import Room
from luthier.serve.services import Services

log = logging.getLogger(__name__)

PRIORITY = 1
"""After all that is live."""
COME_AGAIN = (429, 503)
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
PATIENCE_SECONDS = 1_800.0
"""With an engine that does not answer: a line by which it dies must not end it for ever."""


class LineAnswers:
    """What becomes of the lines of one batch."""

    def __init__(
        self,
        services: Services,
        leases: Leases,
        room: Callable[[str], Room],
        batch: Batch,
        is_over: Callable[[], bool],
    ) -> None:
        """`room` bounds what one base model's engine is asked at once."""
        self._services, self._leases, self._room, self._batch = services, leases, room, batch
        self._is_over = is_over
        self._caller = Caller(account=batch.account, user=batch.owner, role=batch.role, key=batch.key)
        self._route = ROUTES[batch.endpoint]
        self._reading, self._turn = asyncio.Lock(), asyncio.Lock()
        self._limited_until: dict[str, float] = {}
        """By the model that is asked: when the next minute of its rate limits begins."""

    async def result(self, line: Line) -> LineResult | None:
        """None when the batch is over before the line is begun."""
        try:
            return await self._patiently(line)
        except LuthierError as error:
            refused = error
        except Exception:  # a fault of ours in one line is that line's alone
            name = source_id(self._batch, line.number)
            log.exception("batch line %s", name)
            refused = LuthierError(f"An internal error happened. The logs have more under {name}.")
        return LineResult(line=line.number, output=self._output(line, refused.http, json.dumps(error_body(refused))))

    def expired(self, line: Line) -> str:
        """What the error file says of a line that was never begun."""
        told = "This request could not be executed before the completion window expired."
        return _output(self._batch, line, "null", json.dumps({"code": "batch_expired", "message": told}))

    async def _patiently(self, line: Line) -> LineResult | None:
        async with self._reading:  # one after the other: live requests wait for the same threads
            body = await beside(line.body, self._route.read, self._route.body, line.body)
            if body.stream:
                raise invalid("stream", "a batch has whole answers only; leave it out")
            request = (await beside(line.body, body.request)).model_copy(update={"priority": PRIORITY})
        pause, give_up_at, now = FIRST_PAUSE, None, asyncio.get_running_loop().time
        while not self._is_over():
            if (limited := self._limited_until.get(body.model, 0) - now()) > 0:
                await asyncio.sleep(min(limited, LONGEST_PAUSE))
                continue
            try:
                return await self._answered(line, body, request)
            except RateLimited as error:
                if error.retry_after is None:
                    raise
                self._limited_until[body.model] = now() + error.retry_after
                continue
            except LuthierError as error:
                give_up_at = give_up_at or now() + PATIENCE_SECONDS
                if not _may_come_again(error) or now() > give_up_at:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return None

    async def _answered(self, line: Line, body: Asked, request: CompleteRequest) -> LineResult | None:
        services = self._services
        async with self._turn:  # lines come to the engine in their order, also where the registry is asked first
            resolved = await services.resolver.resolve(self._caller, request.model)
            base_model = await services.base_model_of(self._caller, request.model)
        async with self._room(base_model).places(request.num_choices):
            if self._is_over():
                return None
            if await services.base_model_of(self._caller, request.model) != base_model:
                raise Unavailable("The model has come to stand on another base model.")  # and is asked there next
            name = source_id(self._batch, line.number)
            ask = Ask(name, self._caller, self._route.function, base_model, request, is_billed=False)
            answer, usage = await self._paid(ask, resolved.billed_as)
        text = self._route.writer(ask.id, body).whole(answer).decode("ascii")
        return LineResult(line=line.number, output=self._output(line, 200, text), usage=usage)

    async def _paid(self, ask: Ask, model: str) -> tuple[Chunk, UsageRecord]:
        """The answer and its bill, of credits that are reserved before."""
        services, base = self._services, self._services.catalog.get(ask.base_model)
        reservation, cost = self._leases.open(self._caller), 0
        leases: tuple[str, ...] = ()
        try:
            await reservation.take(most_ucr(ask.request, base, services.prices))
            answer = await services.completions.whole(ask)
            assert answer.usage is not None
            usage = bill(ask, base, Billed(model, answer.version), services.prices, answer.usage)
            cost = usage.amount_ucr
        finally:
            leases = reservation.settle(cost)
        return answer, usage.model_copy(update={"leases": leases})

    def _output(self, line: Line, status: int, body: str) -> str:
        name = quoted(source_id(self._batch, line.number))
        return _output(self._batch, line, f'{{"status_code":{status},"request_id":{name},"body":{body}}}', "null")


def most_ucr(request: CompleteRequest, base: BaseModel, prices: PriceList) -> int:
    """What an answer can cost, whatever its prompts are: their tokens are not known here."""
    room = base.engine.max_model_len
    given = request.max_tokens
    most = min(DEFAULT_MAX_TOKENS if given is None else given, room - 1)
    shapes = [(room - most, most)] if given is not None else [(room - most, most), (room - 1, 1)]
    each = max(prices.completion_ucr(base.price_class, prompt, made * request.n) for prompt, made in shapes)
    return each * len(request.prompts or (None,))


def _may_come_again(error: LuthierError) -> bool:
    """What now stands against it goes by: credits, too, as long as other lines have reserved more than they cost."""
    if isinstance(error, PaymentRequired):
        return error.retry_after is not None
    return error.http in COME_AGAIN


def _output(batch: Batch, line: Line, response: str, error: str) -> str:
    own = f"batch_req_{batch.id.removeprefix('batch_')}-{line.number}"
    return f'{{"id":{quoted(own)},"custom_id":{quoted(line.custom_id)},"response":{response},"error":{error}}}'
