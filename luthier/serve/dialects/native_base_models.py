"""The native API, /luthier/v1/base-models: the catalog, and what this server has of it."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Query

from luthier.platform.base_models import BaseModel, base_model_dir, is_retired, retirement_warning
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.services import Services

routes = APIRouter(prefix="/base-models")


@routes.get("")
def list_base_models(
    _caller: CallerOf, services: ServicesOf, include_retired: bool = Query(False, alias="all")
) -> dict[str, Any]:
    """The catalog; without `all` only what is not retired."""
    rows = [_row(base, services) for base in services.catalog]
    return {"base_models": [row for row in rows if include_retired or not row["is_retired"]]}


@routes.get("/{name:path}")
def get_base_model(name: str, _caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """One row in full, by its name, an alias or its Hugging Face name."""
    base = services.catalog.get(name)
    return {**_row(base, services), "source": base.source.kind, "engine": base.engine.model_dump()}


def _row(base: BaseModel, services: Services) -> dict[str, Any]:
    """A row as users see it: no folder of this machine in it."""
    today = datetime.now(UTC).date()
    return {
        **base.model_dump(exclude={"source", "engine"}),
        "serve_gpus": base.engine.tensor_parallel_size,
        "is_retired": is_retired(base, today),
        "warning": retirement_warning(base, today),
        "fetched": base_model_dir(services.settings, base).is_dir(),
        "served": base.name in services.settings.serve_base_models,
    }
