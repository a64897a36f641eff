"""What a door tells the audit: each change, and each refusal, before the answer goes out.

The registry writes a change down in its own transaction; the door tells of what changed nothing there. Refusals are
bounded: beyond some in a minute they are counted and become one row at its end.
"""

import asyncio
import ipaddress
import logging
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.errors import LuthierError, ModelNotFound, NotFound, Unavailable
from luthier.platform.access import Caller
from luthier.platform.audit import MAX_TEXT, Entry, asked
from luthier.platform.jobs import now_ms
from luthier.platform.keys import endpoint_of, is_change
from luthier.platform.told import storable
from luthier.serve.doors.faults import error_response
from luthier.serve.silence import NEW_PATIENCE_SECONDS
from luthier.serve.threads import REGISTRY

log = logging.getLogger(__name__)

REFUSED = (401, 402, 403, 404)
HIDDEN = (NotFound.code, ModelNotFound.code)
"""What one may not see answers like what is not there: for who has a key, both are in the audit."""
MINUTE_SECONDS = 60.0
EACH_IN_MINUTE, ALL_IN_MINUTE = 10, 300
"""Refusals that get a row of their own, of one source and caller and of all, by one door; of unknown callers as many
again. The rest is counted."""
MAX_GROUPS = 100
"""Sources and callers that are told apart when they are counted."""

Group = tuple[str, str, str, str, str, int]
"""Account, user, role, key, source, status."""


class Auditor:
    """A door's way to the audit. Belongs to one event loop."""

    def __init__(self, append: Callable[[list[Entry]], object], minute_seconds: float = MINUTE_SECONDS) -> None:
        """`append` may block: it runs in a thread."""
        self._append, self._minute_seconds = append, minute_seconds
        self._seen: dict[tuple[bool, Group | None], int] = {}
        self._counted: dict[Group, Entry] = {}
        self._minute: asyncio.Task[None] | None = None

    async def write(self, entry: Entry) -> None:
        """Returns when it is kept, or counted. A refusal waits for a silent registry no longer than who is unknown."""
        if entry.is_allowed or self._has_room(entry):
            async with asyncio.timeout(None if entry.is_allowed else NEW_PATIENCE_SECONDS):
                await REGISTRY.run(self._append, [entry])
        else:
            self._count(entry)

    def _has_room(self, entry: Entry) -> bool:
        is_known, group = bool(entry.account), _group(entry)
        own, of_all = (is_known, group), (is_known, None)
        if self._seen.get(own, 0) >= EACH_IN_MINUTE or self._seen.get(of_all, 0) >= ALL_IN_MINUTE:
            return False
        self._begin_minute()
        for key in (own, of_all):
            self._seen[key] = self._seen.get(key, 0) + 1
        return True

    def _count(self, entry: Entry) -> None:
        group = _group(entry)
        if group not in self._counted and len(self._counted) >= MAX_GROUPS:
            group = (entry.account, "", "", "", "many", entry.status)
            entry = entry.model_copy(update={"user": "", "role": "", "key": "", "source": "many"})
        known = self._counted.get(group)
        count = known.count + 1 if known else 1
        self._counted[group] = entry.model_copy(update={"count": count})
        self._begin_minute()

    def _begin_minute(self) -> None:
        if self._minute is None or self._minute.done():
            self._minute = asyncio.create_task(self._end_minute())

    async def _end_minute(self) -> None:
        while True:
            await asyncio.sleep(self._minute_seconds)
            self._seen.clear()
            counted, self._counted = self._counted, {}
            if not counted:
                return
            try:
                await REGISTRY.run(self._append, [_sum(entry) for entry in counted.values()])
            except Exception as error:  # whatever it is, they are kept for the next minute's end
                log.warning("refusals wait for the audit: %s", error)
                for group, entry in counted.items():
                    late = self._counted.get(group)
                    both = entry.count + (late.count if late else 0)
                    self._counted[group] = entry.model_copy(update={"count": both})


class Audited:
    """Holds each answer back until what it tells of is in the audit. It wants the request's id."""

    def __init__(self, app: ASGIApp, auditor: Auditor) -> None:
        self._app, self._auditor = app, auditor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = is_unwritten = False

        async def send_audited(message: Message) -> None:
            nonlocal has_begun, is_unwritten
            if message["type"] == "http.response.start":
                has_begun = True
                if error := await self._unwritten(scope, message["status"]):
                    is_unwritten = True
                    await error_response(Request(scope), error)(scope, receive, send)
            if not is_unwritten:
                await send(message)

        token = asked.set(lambda: entry_of(scope, _status(scope)))
        try:
            await self._app(scope, receive, send_audited)
        except Exception as error:
            if not has_begun and not isinstance(error, LuthierError):
                await self._unwritten(scope, LuthierError.http)
            raise
        finally:
            asked.reset(token)

    async def _unwritten(self, scope: Scope, status: int) -> Unavailable | None:
        """Why what the answer tells of is not in the audit."""
        entry = entry_of(scope, status)
        if entry is None:
            return None
        try:
            await self._auditor.write(entry)
        except Exception as error:  # whatever it is: the answer must not go out
            log.warning("request %s was not audited: %s", entry.id, error)
            return Unavailable(
                "The audit takes no entry just now. What was asked may be done: look before you ask again."
            )
        return None


def entry_of(scope: Scope, status: int) -> Entry | None:
    """What the audit is told of a request that is answered so; None: nothing."""
    state = scope["state"]
    caller: Caller | None = state.get("caller")
    is_hidden = caller is not None and state.get("error") in HIDDEN
    is_refused = is_hidden or (status in REFUSED and (status != 404 or caller is not None))
    is_told = status >= 500 or (status < 400 and not state.get("has_told"))
    if not is_refused and not (_changes(scope) and is_told):
        return None
    return _entry(scope, status, is_allowed=not is_refused)


def entry_of_row(scope: Scope, number: int, action: str, kind: str, name: str) -> Entry:
    """Of one of the many changes of a statement, which are told one by one."""
    own = {"id": f"{scope['state']['id']}-{number}", "action": action, "object_kind": kind, "object_name": _short(name)}
    return _entry(scope, 200, is_allowed=True).model_copy(update=own)


def _entry(scope: Scope, status: int, is_allowed: bool) -> Entry:
    state = scope["state"]
    caller: Caller | None = state.get("caller")
    kind, name = _object(scope)
    return Entry(
        id=state["id"],
        time=now_ms(),
        **({"account": caller.account, "user": caller.user, "role": caller.role} if caller else {}),
        key=(caller and caller.key) or "",
        action=_action(scope),
        object_kind=kind,
        object_name=_short(name),
        source=source_of(scope),
        is_allowed=is_allowed,
        status=status,
        reason=_short(state.get("reason", "")) if status >= 400 else "",
    )


def _status(scope: Scope) -> int:
    """Of the answer, if all goes well."""
    return getattr(scope.get("route"), "status_code", None) or 200


def source_of(scope: Scope) -> str:
    """The client's address. HAProxy, on this machine, puts it into a header, in the place of what clients put there."""
    address = (scope.get("client") or ("",))[0]
    told = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    if told and _is_here(address):
        return _short(told[-1].decode("latin-1").rpartition(",")[2].strip())
    return str(address)


def _changes(scope: Scope) -> bool:
    """By its method and path; of a statement of SQL whoever runs it says it."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return bool(scope["state"].get("changes", is_change(scope["method"], endpoint_of(path))))


def _action(scope: Scope) -> str:
    """The name of the route."""
    if action := scope["state"].get("action"):
        return str(action)
    endpoint = scope.get("endpoint")
    return _short(endpoint.__name__ if endpoint else f"{scope['method']} {scope['path']}")


def _object(scope: Scope) -> tuple[str, str]:
    """What the route said that it is about, else what its path or its `name` says."""
    if told := scope["state"].get("object"):
        return told[0], told[1]
    route = str(getattr(scope.get("route"), "path", scope["path"]))
    fixed = [part for part in re.split(r"/\{.*", route)[0].split("/") if part]
    given = [str(value) for value in scope.get("path_params", {}).values()]
    given = given or parse_qs(scope["query_string"].decode("latin-1")).get("name", [])
    kind = re.sub("(?<=ch)es$|s$", "", fixed[-1]) if fixed else ""
    return kind, " ".join(given)


def _group(entry: Entry) -> Group:
    return entry.account, entry.user, entry.role, entry.key, entry.source, entry.status


def _sum(entry: Entry) -> Entry:
    told = f"{entry.count} more in a minute, the last: {entry.reason}"
    return entry.model_copy(update={"id": f"sum_{uuid.uuid4().hex}", "time": now_ms(), "reason": _short(told)})


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _short(text: Any) -> str:
    return storable(str(text))[:MAX_TEXT]
