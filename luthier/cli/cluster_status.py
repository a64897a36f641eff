"""What runs, as `luthier status` tells it: by the record and the API alone, so that it answers whatever is broken."""

from typing import Any

import httpx
from filelock import FileLock, Timeout

from luthier.cli.client import Client
from luthier.cli.cluster_record import Cluster, is_gone, lock_file, read_record, serve_logs
from luthier.cli.profile import load_profile
from luthier.cli.remote import path_of
from luthier.errors import LuthierError
from luthier.platform.settings import Settings


def status(settings: Settings) -> dict[str, Any]:
    """`reason` says what is missing, and what to do."""
    cluster = read_record(settings)
    if cluster is None:
        return {"up": False, "reason": f"nothing was started in {settings.home}: run `luthier up`"}
    known = cluster.model_dump(mode="json", exclude={"id", "content"})
    found: dict[str, Any] = {"up": False, **known, "docs": f"{cluster.url}/docs"}
    try:
        answer = httpx.get(f"{cluster.url}/readyz", timeout=10)
    except httpx.HTTPError:
        return {**found, "reason": _why_silent(settings, cluster, "does not answer")}
    try:
        ready = answer.json()
        engines = {"engines": ready["base_models"], "full_models": ready["full_models"]}
    except (ValueError, TypeError, KeyError):  # HAProxy's own answer, or another program's
        return {**found, "reason": _why_silent(settings, cluster, f"has no gateway ({answer.status_code})")}
    replicas = _replicas(settings, cluster, ready["base_models"])
    return {**found, "up": True, "ready": ready["ready"], **engines, **replicas}


def _why_silent(settings: Settings, cluster: Cluster, what: str) -> str:
    if _is_at_work(settings):
        return "`luthier up` or `down` is at work"
    if is_gone(cluster):
        return "Ray has ended by itself, or `luthier up` did: run `luthier up`, or `luthier down`"
    return f"the API {what}: run `luthier up`; the logs are in {serve_logs(settings, cluster)}"


def _is_at_work(settings: Settings) -> bool:
    try:
        with FileLock(lock_file(settings), timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # nobody is at work on a home that cannot be written
        return False


def _replicas(settings: Settings, cluster: Cluster, engines: dict[str, bool]) -> dict[str, Any]:
    """Which adapters are where, by replica; the nodes; and what is not ready."""
    told: dict[str, Any] = {}
    profile, errors = load_profile(settings), []
    try:
        if profile is not None:
            told = Client(profile.url, profile.api_key).call("GET", path_of("engines"))
    except LuthierError as error:
        errors.append(error.message)
    replicas = {engine.pop("replica"): engine for engine in told.get("engines", ())}
    nodes, silent = told.get("nodes", []), [name for name, is_ready in engines.items() if not is_ready]
    lost = [f"node {_place(node)} is lost" for node in nodes if node["is_lost"] and silent]
    starts = f"starts or is broken: logs in {serve_logs(settings, cluster)}"
    whys = {name: f"no answer from the engine of {name}, which {starts}" for name in silent} | told.get("waiting", {})
    reasons = [*lost, *whys.values(), *errors]
    return {"replicas": replicas, "nodes": nodes} | ({"reason": "; ".join(reasons)} if reasons else {})


def _place(node: dict[str, Any]) -> str:
    name, address = node["name"], node["address"]
    return name if name == address else f"{name} ({address})"
