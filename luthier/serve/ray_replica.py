"""The Serve replica that this process is, as we want it. Serve has no settings for what is changed here.

Written for the Ray that is pinned; a Ray that has these parts elsewhere fails at once instead of passing unseen.
"""

import asyncio
import logging
import time
from typing import Any

import uvicorn
from ray._common.tls_utils import add_port_to_grpc_server
from ray.exceptions import RayError
from ray.serve._private import replica as serve_replica
from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve._private.http_util import start_asgi_http_server
from ray.serve.generated.serve_pb2 import ApplicationStatus, StatusOverview
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

SERVES_OWN = "/-/"
"""Serve's routes, for HAProxy's health checks."""
ASK_SECONDS = 2.0
"""For Serve's controller to say what becomes of this replica's application."""
drain_behind_haproxy = serve_replica.Replica._drain_behind_haproxy


def adapt_replica(is_fronted: bool = True) -> None:
    """Call it before Serve has set up the replica of this process; `is_fronted`: HAProxy sends it requests.

    Each replica opens a port without any key, on all interfaces, for calls between deployments over gRPC. Calls here
    go through Ray, so the port is bound where nobody else reaches it.
    """
    assert serve_replica.add_port_to_grpc_server
    assert serve_replica.start_asgi_http_server
    serve_replica.add_port_to_grpc_server = lambda server, _address: add_port_to_grpc_server(server, "127.0.0.1:0")
    serve_replica.start_asgi_http_server = _start_short
    serve_replica.Replica._drain_behind_haproxy = _drain
    if not is_fronted:
        assert serve_replica.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S >= 0
        serve_replica.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S = 0  # nobody has to hear that it goes


class ShortWay:
    """Requests straight from the replica's HTTP server to its app; Serve's own routes as ever.

    Serve would put a task, a proxy of the socket, an id, timeouts and an access log around each request (0.8 ms). Ours
    has them in another form. What Serve does need stays: how many are open, for scaling and for the end of a replica,
    and how long each took, for its metrics.
    """

    def __init__(self, replica: Any, app: ASGIApp, long_way: ASGIApp) -> None:
        self._app, self._long_way, self._metrics = app, long_way, replica._metrics_manager
        self._prefix = "" if replica._route_prefix == "/" else replica._route_prefix
        self._metadata = RequestMetadata(
            request_id="",
            internal_request_id="",
            route=replica._route_prefix,
            app_name=replica._deployment_id.app_name,
            _request_protocol=RequestProtocol.HTTP,
            is_direct_ingress=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] != "http" or path.startswith(SERVES_OWN) or not path.startswith(f"{self._prefix}/"):
            await self._long_way(scope, receive, send)
            return
        scope["root_path"] = scope.get("root_path", "") + self._prefix
        began, error = time.monotonic(), None
        self._metrics.inc_num_ongoing_requests(self._metadata)
        try:
            await self._app(scope, receive, send)
        except Exception as raised:
            error = raised
            log.exception("request %s failed", scope.get("state", {}).get("id"))  # Serve has switched off uvicorn's log
            raise
        finally:
            self._metrics.dec_num_ongoing_requests(self._metadata)
            self._metrics.record_request_metrics(
                route=self._metadata.route,
                latency_ms=1000 * (time.monotonic() - began),
                is_error=error is not None,
                exception_type=type(error).__name__,
            )


async def _drain(replica: Any, min_draining_period_s: float) -> None:
    """It stays reachable until HAProxy has heard that it goes, so that others get its requests; if there are others."""
    goes_alone = not await _ends_with_application(replica)
    await drain_behind_haproxy(replica, min_draining_period_s if goes_alone else 0.0)


async def _ends_with_application(replica: Any) -> bool:
    name = replica._deployment_id.app_name
    try:
        async with asyncio.timeout(ASK_SECONDS):
            (told,) = await replica._controller_handle.get_serve_statuses.remote([name])
    except (RayError, TimeoutError):
        log.warning("Serve does not say whether the application %s ends", name)
        return False
    status = StatusOverview.FromString(told).app_status.status
    return bool(status == ApplicationStatus.APPLICATION_STATUS_DELETING)


async def _start_short(app: Any, options: Any, **how: Any) -> tuple[asyncio.Task[None], uvicorn.Server]:
    """As Serve starts the HTTP server of a replica; `app` is a method of it. The server has not run yet."""
    task, server = await start_asgi_http_server(app, options, **how)
    replica, long_way = app.__self__, server.config.app()
    user = replica._user_callable_wrapper
    if not user._run_user_code_in_separate_thread:  # else the app belongs to another loop than the server's
        short = ShortWay(replica, replica._user_callable_asgi_app, long_way)
        server.config.app = lambda: short
    return task, server
