"""The registry as one named, detached Ray actor, a reader beside it, and a client with the same verbs.

The actor does one thing after another, so what may take long and changes nothing is the reader's (LONG_READS): a
process with its own connections, in which a few are read side by side.
"""

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError, RayTaskError
from sqlalchemy.exc import InterfaceError, OperationalError

from luthier.errors import ClusterError, LuthierError, Unavailable
from luthier.platform.audit import Entry, asked
from luthier.platform.registry.artifacts import Garbage
from luthier.platform.registry.jobs import Launcher
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.retention import MAX_FORGOTTEN
from luthier.platform.settings import Settings
from luthier.platform.webhooks import Delivery, Outcome

log = logging.getLogger(__name__)

NAME = "luthier-registry"
NAMESPACE = "luthier"
TICK_SECONDS = 0.5
TICK = (("jobs", "tick"), ("replicas", "notice"))
COLLECT_SECONDS = 600.0
CALL_TIMEOUT_SECONDS = 30.0
START_SECONDS = 120.0
PORTION = 1_000
"""Records of storage in one call."""
READER = f"{NAME}-reader"
READERS = 4
"""Long reads at a time."""
READ_TIMEOUT_SECONDS = 120.0
LONG_READS = {
    "accounts": {"show", "check_asks_all"},
    "audit": {"show", "page"},
    "batches": {"show"},
    "budgets": {"show"},
    "credits": {"topups"},
    "databases": {"show"},
    "files": {"show"},
    "grants": {"to_role", "on", "of_role", "to_user", "future", "future_to"},
    "jobs": {"show"},
    "keys": {"show", "authenticate_all", "sessions_of"},
    "models": {"show"},
    "rates": {"show"},
    "reconcile": {"report"},
    "retention": {"orphans"},
    "roles": {"show"},
    "shares": {"show", "describe", "grants", "accounts"},
    "storage": {"due"},
    "tables": {"show"},
    "usage": {"sums", "part", "page", "page_behind", "columns"},
    "users": {"show"},
    "versions": {"show", "history", "numbers", "serving_all"},
    "views": {"show", "open"},
    "webhooks": {"notices"},
}
"""Verbs that only read, and may take long: the more rows there are, or files to be looked through."""


class RegistryActor:
    """Single-threaded: calls run one after another, so no verb ever meets another half-done."""

    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        self._registry = Registry(settings, launcher)
        self._registry.credits.keep_leases()
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=_tick_forever, args=(me,), daemon=True).start()
        threading.Thread(target=_collect_forever, daemon=True).start()
        threading.Thread(target=_deliver_forever, args=(me, self._registry, settings), daemon=True).start()

    def call(
        self, part: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], entry: Entry | None = None
    ) -> Any:
        """`entry` is what the audit is told of, when the verb changes something."""
        token = asked.set(lambda: entry)
        try:
            return _do(self._registry, part, verb, args, kwargs)
        finally:
            asked.reset(token)


class LongReader:
    """The verbs of LONG_READS; by its connections nothing can be written."""

    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        self._registry = Registry(settings, launcher, read_only=True)

    def call(self, part: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _do(self._registry, part, verb, args, kwargs)


class _Client:
    """The groups of verbs of `Registry`."""

    def __getattr__(self, part: str) -> "_Part":
        if part.startswith("_"):
            raise AttributeError(part)
        return _Part(part)


def registry_client() -> Registry:
    """Each verb is a call to the actor. Blocking; safe from many threads."""
    return cast(Registry, _Client())


def start_registry(settings: Settings, launcher: Launcher) -> None:
    """Starts the actor, and its reader once the store is as it must be; or finds those that are there."""
    handle = _options(RegistryActor, NAME).remote(settings, launcher)
    try:
        ray.get(handle.call.remote("jobs", "tick", (), {}), timeout=START_SECONDS)
    except GetTimeoutError as error:
        raise ClusterError(
            f"The registry did not start within {START_SECONDS:.0f} s: the machine, or the store, is too busy. "
            f"Run `luthier up` again."
        ) from error
    except ActorDiedError as error:  # ends with what its making raised
        raise ClusterError(f"The registry did not start: {str(error).splitlines()[-1]}") from error
    _options(LongReader, READER, max_concurrency=READERS).remote(settings, launcher)


def stop_registry() -> None:
    """Ends both actors; their state stays in the store."""
    for name in (READER, NAME):
        with suppress(ValueError):  # not running
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def _options(kind: type[RegistryActor] | type[LongReader], name: str, **more: int) -> Any:
    return ray.remote(kind).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        resources={"node:__internal_head__": 0.001},
        max_restarts=-1,
        max_task_retries=-1,
        **more,
    )


class _Part:
    """One group of verbs; any public name is a verb. Pickles, as it travels to a run's workers."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __reduce__(self) -> tuple[type["_Part"], tuple[str]]:
        return _Part, (self._part,)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb.startswith("_"):
            raise AttributeError(verb)

        def call(*args: Any, **kwargs: Any) -> Any:
            return _call(self._part, verb, args, kwargs)

        return call


def _call(part: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    is_long = verb in LONG_READS.get(part, ())
    seconds = READ_TIMEOUT_SECONDS if is_long else CALL_TIMEOUT_SECONDS
    try:
        if is_long:
            return ray.get(_actor(READER).call.remote(part, verb, args, kwargs), timeout=seconds)
        return ray.get(_actor().call.remote(part, verb, args, kwargs, asked.get()()), timeout=seconds)
    except RayTaskError as error:
        if isinstance(error.cause, LuthierError):
            raise error.cause from None
        raise
    except (ValueError, GetTimeoutError, RayActorError) as error:
        raise Unavailable(f"The registry does not answer ({verb}). Try again; `luthier status` shows more.") from error


def _do(registry: Registry, part: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return getattr(getattr(registry, part), verb)(*args, **kwargs)
    except (OperationalError, InterfaceError) as error:  # locked, full or away: not what was asked is at fault
        raise Unavailable(f"The registry's store does not answer: {error.orig}. Try again.") from error


def _actor(name: str = NAME) -> ActorHandle:
    return ray.get_actor(name, namespace=NAMESPACE)


def _collect_forever() -> None:
    """What is done now and then, in portions between the calls; folders that nobody needs are removed beside them."""
    while True:
        time.sleep(COLLECT_SECONDS)
        registry = registry_client()
        for step in (_bill_storage, _remove_dropped, _forget_jobs, _forget_notices):
            try:
                step(registry)
            except (LuthierError, RayError):  # the next round tries again
                log.exception("%s failed", step.__name__)


def _bill_storage(registry: Registry) -> None:
    due = registry.storage.due()
    for start in range(0, len(due), PORTION):
        registry.ledger.append(due[start : start + PORTION])


def _remove_dropped(registry: Registry) -> None:
    _remove(registry.artifacts.collect())


def _forget_jobs(registry: Registry) -> None:
    while registry.retention.forget() == MAX_FORGOTTEN:
        continue  # others have their turn in between
    _remove(registry.retention.orphans())


def _forget_notices(registry: Registry) -> None:
    while registry.outbox.forget() == MAX_FORGOTTEN:
        continue


def _remove(garbage: list[Garbage]) -> None:
    for each in garbage:
        shutil.rmtree(each.path, ignore_errors=True)


class _Outbox:
    """The outbox's verbs, queued behind the waiting calls; what needs no store is done here."""

    def __init__(self, me: ActorHandle, registry: Registry) -> None:
        self._me, self.secret = me, registry.outbox.secret

    def due(self, under_way: Collection[str] = ()) -> list[Delivery]:
        due: list[Delivery] = ray.get(self._me.call.remote("outbox", "due", (under_way,), {}))
        return due

    def delivered(self, number: int, attempt: int, outcome: Outcome) -> None:
        ray.get(self._me.call.remote("outbox", "delivered", (number, attempt, outcome), {}))


def _deliver_forever(me: ActorHandle, registry: Registry, settings: Settings) -> None:
    """Sends notices to webhooks beside the calls."""
    from luthier.platform.addresses import Addresses
    from luthier.platform.posting import Deliverer

    asyncio.run(Deliverer(_Outbox(me, registry), Addresses(settings.webhook_networks)).run())


def _tick_forever(me: ActorHandle) -> None:
    """Queues a tick behind the waiting calls, and the next one only when it is done."""
    while True:
        for part, verb in TICK:
            try:
                ray.get(me.call.remote(part, verb, (), {}))
            except RayError:  # the next tick tries again; a thread that ended here would strand every job
                log.exception("%s.%s failed", part, verb)
        time.sleep(TICK_SECONDS)
