"""The native API, /luthier/v1: each native_* file has a part of it. Here they are put together."""

from typing import Any

from fastapi import APIRouter, Response

from luthier.serve.dialects import (
    native_access,
    native_audit,
    native_base_models,
    native_credits,
    native_databases,
    native_engines,
    native_follow,
    native_jobs,
    native_keys,
    native_limits,
    native_models,
    native_shares,
    native_sql,
    native_tables,
    native_usage,
    native_versions,
    native_views,
    native_webhooks,
)
from luthier.serve.doors.deps import ServicesOf, SessionOf

router = APIRouter(tags=["Luthier"])
v1 = APIRouter(prefix="/luthier/v1")


@v1.get("/whoami")
def whoami(session: SessionOf) -> dict[str, Any]:
    return {**session.caller.model_dump(), "scope": session.scope.model_dump(), "expires_on": session.expires_on}


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(services: ServicesOf, response: Response) -> dict[str, Any]:
    """200 when every base model's engine answers, else 503."""
    ready = await services.completions.ready()
    response.status_code = 200 if all(ready.values()) else 503
    full_models = await services.full_models()
    return {"ready": all(ready.values()), "base_models": ready, "full_models": full_models}


for part in (
    *(native_jobs, native_follow, native_models, native_versions, native_base_models, native_engines),
    *(native_sql, native_tables, native_views, native_databases, native_shares),
    *(native_access, native_keys, native_audit, native_credits, native_limits, native_usage, native_webhooks),
):
    v1.include_router(part.routes)
router.include_router(native_follow.scrape)
router.include_router(v1)
