"""The native API on views: /luthier/v1/views."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from luthier.platform.models import ViewInfo
from luthier.platform.names import parse_name
from luthier.platform.querying import create_view
from luthier.platform.registry.views import MAX_SHOWN
from luthier.platform.wire import CreateView
from luthier.serve.deps import CallerOf, ServicesOf
from luthier.serve.paths import NAME

routes = APIRouter()


@routes.post("/views", status_code=201)
def make_view(request: Request, body: CreateView, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """CREATE VIEW. `is_new` is false where one of that name was to be kept, and is."""
    request.state.object = ("view", body.name)
    made = create_view(services.settings, services.registry, caller, body)
    return {"name": body.name, **(_told(made) if made else {}), "is_new": made is not None}


@routes.get("/views")
def list_views(
    caller: CallerOf,
    services: ServicesOf,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_SHOWN)] = MAX_SHOWN,
) -> dict[str, Any]:
    """By their names; `next` is the `after` of the next page. A secure view's query is told to its owner's role."""
    views = services.registry.views.show(caller, limit, after)
    more = {"next": views[-1].name} if len(views) == limit else {}
    return {"views": [_told(view) for view in views], **more}


@routes.delete(f"/views/{NAME}")
def drop_view(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    view = parse_name(name, services.settings.database, services.settings.schema_name)
    services.registry.views.drop(caller, view)
    return {"name": view.display}


def _told(view: ViewInfo) -> dict[str, Any]:
    return view.model_dump(exclude={"gives"})
