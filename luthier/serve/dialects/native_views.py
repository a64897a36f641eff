"""The native API on views: /luthier/v1/views."""

from typing import Any

from fastapi import Request

from luthier.platform.models import ViewInfo
from luthier.platform.sql.querying import create_view
from luthier.platform.wire import CreateView
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import PageOf
from luthier.serve.doors.paths import NAME

routes = JsonRouter()


@routes.post("/views", status_code=201)
def make_view(request: Request, body: CreateView, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """CREATE VIEW. `is_new` is false where one of that name was to be kept, and is."""
    request.state.object = ("view", body.name)
    made = create_view(services.settings, services.registry, caller, body)
    return {"name": body.name, **(_told(made) if made else {}), "is_new": made is not None}


@routes.get("/views")
def list_views(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names; `next` is the `after` of the next page. A secure view's query is told to its owner's role."""
    views = services.registry.views.show(caller, page.limit, page.after)
    return page.told("views", views, lambda view: view.name, map(_told, views))


@routes.delete(f"/views/{NAME}")
def drop_view(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    view = services.name(name)
    services.registry.views.drop(caller, view)
    return {"name": view.display}


def _told(view: ViewInfo) -> dict[str, Any]:
    return view.model_dump(exclude={"gives"})
