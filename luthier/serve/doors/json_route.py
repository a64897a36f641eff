"""How FastAPI's routes read a JSON body: as strictly as the bare ones do, and beside the loop where it is long."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from luthier.serve.doors.intake import beside
from luthier.serve.doors.refusals import parsed


class JsonRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        return await beside(body, parsed, body)


class JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


JsonRouter = partial(APIRouter, route_class=JsonRoute)
