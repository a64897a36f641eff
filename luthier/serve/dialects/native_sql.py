"""The native API on SQL: a statement, and its rows as Arrow or as JSON."""

from fastapi import Request, Response

from luthier.platform.wire import RunSql
from luthier.serve.dialects.snowflake_sql import run_sql
from luthier.serve.dialects.sql_body import Answer
from luthier.serve.dialects.sql_rows import write_arrow, write_json
from luthier.serve.doors.deps import ServicesOf, SessionOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.leaving import while_there
from luthier.serve.metering.access_log import CLIENT_GONE

ARROW_STREAM = "application/vnd.apache.arrow.stream"

routes = JsonRouter()


@routes.post("/sql")
async def sql(request: Request, body: RunSql, session: SessionOf, services: ServicesOf) -> Response:
    """One statement. Arrow IPC stream if asked for by `Accept`, else JSON: sql_rows.py says how."""
    is_arrow = ARROW_STREAM in request.headers.get("accept", "")
    write, media_type = (write_arrow, ARROW_STREAM) if is_arrow else (write_json, "application/json")
    async with while_there(request.receive):
        return Answer(await run_sql(services, session, body.statement, request.scope, write), media_type)
    return Response(status_code=CLIENT_GONE)  # for the log alone
