"""up, down: composes the cluster. The one place that reaches both train and serve, inside functions.

`up` reads downward: home -> ports -> base models -> Ray -> registry -> key -> doors -> ready. What fails on the way
takes down what was started. On a cluster that is up it changes what has changed: base models, their rows, settings.
"""

import hashlib
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout

from luthier.cli.cluster_record import (
    Cluster,
    Say,
    connected,
    is_gone,
    lock_file,
    read_record,
    serve_logs,
    set_environment,
    write_record,
)
from luthier.cli.ending import end, let_end
from luthier.cli.failing import AGAIN, LOOK_SECONDS, note, one_sentence, watched, whole_or_not_at_all
from luthier.cli.front import claimed_ports, clear_away, haproxy_binary, instruct, lay_out
from luthier.cli.ports import check_ports
from luthier.cli.profile import Profile, load_profile, save_profile
from luthier.cli.ray_head import NUM_PORTS, start_ray
from luthier.cli.words import last_words
from luthier.errors import ClusterError, InvalidInput, NotAllowed, NotAuthenticated
from luthier.platform.access import KEY_PREFIX, hash_key, new_key
from luthier.platform.base_models import (
    BaseModel,
    Catalog,
    PathSource,
    base_model_dir,
    check_can_serve,
    load_catalog,
    retirement_warning,
)
from luthier.platform.frozen import Frozen
from luthier.platform.settings import Settings
from luthier.platform.weights.base_shapes import check_shared

READY_SECONDS = 600.0


class Started(Frozen):
    cluster: Cluster
    new_key: str | None = None
    """Shown once."""
    was_up: bool = False


def up(settings: Settings, address: str | None, say: Say) -> Started:
    """Starts everything, or finds it started. Raises ClusterError with nothing left half-started."""
    set_environment(settings, address)
    catalog = load_catalog(settings)
    _check_served(settings, catalog, say)
    with _locked_home(settings), one_sentence(settings, "Luthier did not start, and nothing of it is left running"):
        old = read_record(settings)
        if old and _answers(old):
            return Started(cluster=_renew(settings, catalog, address, old, say), was_up=True)
        if old:
            say("cleaning up after a cluster that ended by itself")
            if not end(settings, old, say):
                raise ClusterError("Not started beside it. `luthier down` gives up a Ray that is gone for good.")
        _sweep(settings)
        check_ports(settings, address)
        _fetch(settings, catalog, say)
        with claimed_ports(settings) as ports:
            cluster = _begin(settings, catalog, address, say, ports)
            with whole_or_not_at_all(settings, cluster, say):
                new_key = watched(cluster, lambda: _compose(settings, catalog, cluster, say))
            return Started(cluster=cluster, new_key=new_key)


def down(settings: Settings, say: Say, is_now: bool = False) -> bool:
    """Stops what `up` started, by its record; False when there is none. `is_now`: whatever is under way is cut off."""
    with _locked_home(settings):
        cluster = read_record(settings)
        if cluster is not None:
            set_environment(settings, cluster.address if cluster.root_pid is None else None)
            is_there = is_now or let_end(cluster, say)
            if not end(settings, cluster, say, is_there=is_there):
                raise ClusterError(
                    "Not all is stopped. Try again once that Ray answers; without --now, one that is gone is given up."
                )
        return cluster is not None


def fetch_base_model(settings: Settings, base: BaseModel, say: Say) -> Path:
    """The folder of a base model's weights on this machine; fetched if they are not there."""
    folder = base_model_dir(settings, base)
    if isinstance(base.source, PathSource) or not folder.is_dir():
        from luthier.train.base_weights import fetch

        say(f"fetching base model {base.name} (once)")
        fetch(settings, base)
    return folder


def _check_served(settings: Settings, catalog: Catalog, say: Say) -> None:
    today = datetime.now(UTC).date()
    for name in settings.serve_base_models:
        base = catalog.get(name)
        if base.name != name:  # Serve's applications are found by the name itself
            raise InvalidInput(f"serve_base_models: write {base.name} for {name}.")
        check_can_serve(base, today)
        if warning := retirement_warning(base, today):
            say(warning)


def _renew(settings: Settings, catalog: Catalog, address: str | None, old: Cluster, say: Say) -> Cluster:
    """Replaces what has changed of a cluster that is up, while it answers."""
    try:
        with one_sentence(settings, "Not all that has changed was replaced, and what answered before goes on"):
            return _replace(settings, catalog, address, old, say)
    except KeyboardInterrupt:
        say("what answered before goes on; not all that has changed was replaced")
        raise


def _replace(settings: Settings, catalog: Catalog, address: str | None, old: Cluster, say: Say) -> Cluster:
    new = old.model_copy(update={"base_models": settings.serve_base_models, "content": _content(settings, catalog)})
    if new == old:
        return old
    if old.root_pid is None and address is None:
        raise ClusterError(
            f"Settings have changed. Say on which Ray they are to take effect: luthier up --address {old.address}"
        )
    from luthier.serve.app import end_engines, start_doors

    staying = tuple(name for name in settings.serve_base_models if name in old.base_models)
    _instruct(old, settings.model_copy(update={"serve_base_models": staying}), catalog)
    _fetch(settings, catalog, say)
    with connected(old):
        _check_nodes(settings, catalog, old, say)
        say("replacing what has changed, one after another")
        _instruct(old, settings, catalog)
        start_doors(settings, catalog, "127.0.0.1" if old.haproxy else settings.host)
        _wait_ready(settings, new)
        end_engines(set(old.base_models) - set(new.base_models))
    write_record(settings, new)
    return new


def _instruct(cluster: Cluster, settings: Settings, catalog: Catalog) -> None:
    """HAProxy may be started anew at any time: what it then reads is this Luthier's, of engines that are there."""
    if cluster.haproxy and (binary := haproxy_binary()):
        instruct(settings, catalog, binary)


def _content(settings: Settings, catalog: Catalog) -> str:
    parts = [version("luthier"), settings.model_dump_json(), *(base.model_dump_json() for base in catalog)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _begin(settings: Settings, catalog: Catalog, address: str | None, say: Say, ports: range) -> Cluster:
    """`ports` are for what only this machine reaches. Whenever it is killed, the record names all that there is."""
    binary = haproxy_binary() if address is None else None
    cluster = Cluster(
        id=uuid.uuid4().hex,
        address=address or f"127.0.0.1:{settings.ray_port}",
        root_pid=0 if address is None else None,
        url=f"http://{settings.host}:{settings.port}",
        dashboard=None if address else f"http://127.0.0.1:{settings.dashboard_port}",
        base_models=settings.serve_base_models,
        haproxy=binary is not None,
        content=_content(settings, catalog),
    )
    write_record(settings, cluster)
    if address is not None:
        return cluster
    if binary is None:
        say("no HAProxy on this machine: Ray Serve's Python proxy takes its place")
    say("starting Ray")
    with whole_or_not_at_all(settings, cluster, say):
        root_pid = _start_ray(settings, catalog, cluster.id, binary, ports)
        started = cluster.model_copy(update={"root_pid": root_pid})
        write_record(settings, started)
    return started


def _start_ray(settings: Settings, catalog: Catalog, cluster_id: str, haproxy: str | None, ports: range) -> int:
    """With HAProxy in front, if there is one."""
    from luthier.serve import haproxy_shim

    try:
        shim = Path(haproxy_shim.__file__)
        environment = lay_out(settings, catalog, cluster_id, haproxy, shim, ports[NUM_PORTS:]) if haproxy else {}
        return start_ray(settings, cluster_id, environment, ports[:NUM_PORTS])
    except BaseException:
        clear_away(settings, cluster_id)
        raise


def _compose(settings: Settings, catalog: Catalog, cluster: Cluster, say: Say) -> str | None:
    """Registry, key and doors on a Ray that runs; returns the new key, if one had to be made."""
    from luthier.platform.registry.actor import registry_client, start_registry
    from luthier.serve.app import start_doors
    from luthier.train.supervisor import RayLauncher

    with connected(cluster):
        _check_nodes(settings, catalog, cluster, say)
        say("starting the registry")
        start_registry(settings, RayLauncher(settings))
        key = _ensure_key(settings, cluster, registry_client())
        say(f"starting the gateway and the engines of {', '.join(settings.serve_base_models)}")
        start_doors(settings, catalog, "127.0.0.1" if cluster.haproxy else settings.host)
        _wait_ready(settings, cluster)
    return key


def _check_nodes(settings: Settings, catalog: Catalog, cluster: Cluster, say: Say) -> None:
    """InvalidInput when an engine is larger than each of them; a Ray that is not ours may bring others."""
    from luthier.serve.deployments import beyond_nodes

    for name in settings.serve_base_models:
        if reason := beyond_nodes(catalog.get(name)):
            if cluster.root_pid is not None:
                raise InvalidInput(reason)
            say(f"{reason} It waits for a larger one.")


def _ensure_key(settings: Settings, cluster: Cluster, registry: Any) -> str | None:
    """The profile's key if the registry knows it, else a new one."""
    profile = load_profile(settings)
    if profile is not None:
        try:
            registry.keys.authenticate(hash_key(profile.api_key))
            save_profile(settings, Profile(url=cluster.url, api_key=profile.api_key))
            return None
        except (NotAllowed, NotAuthenticated):
            pass  # a key of another database, or of a role that its user lost: the new key takes its place
    key = new_key()
    registry.access.add_admin_key(settings.account, hash_key(key), key[: len(KEY_PREFIX) + 4])
    save_profile(settings, Profile(url=cluster.url, api_key=key))
    return key


def _wait_ready(settings: Settings, cluster: Cluster) -> None:
    from ray import serve

    from luthier.serve.deployments import GATEWAY

    deadline, ours = time.monotonic() + READY_SECONDS, (GATEWAY, *cluster.base_models)
    while not _are_running(applications := serve.status().applications, ours) or not _is_ready(cluster):
        for name in ours:
            if name in applications and applications[name].status == "DEPLOY_FAILED":
                why = _why(applications[name])
                raise ClusterError(
                    f"{name} did not start: {last_words(why)}. {note(settings, why)} "
                    f"The logs are in {serve_logs(settings, cluster)}."
                )
        if time.monotonic() > deadline:
            late = [name for name in ours if not _are_running(applications, [name])] or ["HTTP"]
            raise ClusterError(
                f"{', '.join(late)} not ready within {READY_SECONDS:.0f} s. The logs are in "
                f"{serve_logs(settings, cluster)}. {AGAIN}"
            )
        time.sleep(0.25)


def _are_running(applications: dict[str, Any], names: Iterable[str]) -> bool:
    return all(name in applications and applications[name].status == "RUNNING" for name in names)


def _why(application: Any) -> str:
    messages = [application.message, *(each.message for each in application.deployments.values())]
    return next((message for message in reversed(messages) if message), "no reason given")


def _is_ready(cluster: Cluster) -> bool:
    """Everything answers, each engine by its own way too, which asks for a key."""
    doors = {f"/m/{name}/v1/models": 401 for name in cluster.base_models} | {"/readyz": 200}
    try:
        return all(httpx.get(f"{cluster.url}{path}", timeout=5).status_code == told for path, told in doors.items())
    except httpx.HTTPError:
        return False


def _answers(cluster: Cluster) -> bool:
    """The cluster of this record is the one that answers."""
    return not is_gone(cluster) and _is_ready(cluster)


def _sweep(settings: Settings) -> None:
    from luthier.platform.storage import Storage

    Storage(settings.storage).sweep_uploads()


def _fetch(settings: Settings, catalog: Catalog, say: Say) -> None:
    for base in (catalog.get(name) for name in settings.serve_base_models):
        check_shared(base, fetch_base_model(settings, base, say))


@contextmanager
def _locked_home(settings: Settings) -> Iterator[None]:
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(lock_file(settings))
        lock.acquire(timeout=LOOK_SECONDS)  # `luthier status` has it for a moment
    except Timeout:
        raise ClusterError(f"Another `luthier up` or `down` is at work on {settings.home}. Wait for it.") from None
    except OSError as error:
        raise ClusterError(
            f"The home {settings.home} cannot be written ({error.strerror}). Set LUTHIER_HOME."
        ) from error
    try:
        yield
    finally:
        lock.release()
