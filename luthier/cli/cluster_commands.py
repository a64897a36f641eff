"""luthier up | down | status | demo."""

import sys
import time
from typing import Any

import click

from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one
from luthier.platform.settings import Settings, load_settings

REPLICA_COLUMNS = ("replica", "base_model", "node", "in_engine", "in_memory", "on_disk", "hits", "misses", "refused")


def _say(text: str) -> None:
    click.echo(f"... {text}", err=True)


@click.command()
@click.option("--address", metavar="HOST:PORT", help="Join the Ray whose GCS listens there, instead of starting one.")
@AS_JSON
def up(address: str | None, as_json: bool) -> None:
    """Start Luthier, or find it started.

    Exit status 2: settings or catalog are wrong; 3: no such base model; 6: a hub or store does not answer; 7: the
    cluster does not start, and nothing of it is left; 130: Ctrl-C.
    """
    from luthier.cli import cluster
    from luthier.cli.cluster_status import status as status_of

    settings, began = load_settings(), time.monotonic()
    started = cluster.up(settings, address, _say)
    found = status_of(settings)
    if started.new_key:
        found["api_key"] = started.new_key
    if as_json:
        show_one(found, as_json)
        return
    click.echo("Luthier is up already." if started.was_up else f"Luthier is up ({time.monotonic() - began:.0f} s).")
    _show_addresses(settings, found)
    click.echo(f"  Base models    {', '.join(found['base_models'])}")
    if started.new_key:
        click.echo(
            f"  API key        {started.new_key}   (user admin; shown once, kept in {settings.home}/profile.json)"
        )


@click.command()
@click.option("--now", is_flag=True, help="Cut off whatever is under way.")
def down(now: bool) -> None:
    """Stop what `luthier up` started, once it has answered. Jobs, models and usage stay in the home."""
    from luthier.cli import cluster

    was_up = cluster.down(load_settings(), _say, now)
    click.echo("Luthier is down." if was_up else "Nothing to stop: Luthier was not up.")


@click.command()
@AS_JSON
def status(as_json: bool) -> None:
    """Show what runs. Exit status 1 when Luthier is not up."""
    from luthier.cli.cluster_status import status as status_of

    settings = load_settings()
    found = status_of(settings)
    if as_json:
        show_one(found, as_json)
    else:
        _show_status(settings, found)
    sys.exit(0 if found["up"] else 1)


def _show_status(settings: Settings, found: dict[str, Any]) -> None:
    state = ("up" if found["ready"] else "up, but not ready") if found["up"] else "not up"
    click.echo(f"Luthier is {state}{': ' if 'reason' in found else '.'}{found.get('reason', '')}")
    if "url" in found:
        _show_addresses(settings, found)
    for node in found.get("nodes", ()):
        click.echo(f"  Node           {node['name']} ({'lost' if node['is_lost'] else 'alive'})")
    for name, is_ready in found.get("engines", {}).items():
        click.echo(f"  Engine         {name} ({'ready' if is_ready else 'not ready'})")
    for name, replicas in found.get("full_models", {}).items():
        click.echo(f"  Full weights   {name} (replicas: {replicas})")
    if rows := [{"replica": name, **row} for name, row in found.get("replicas", {}).items()]:
        click.echo("")
        show(rows, REPLICA_COLUMNS, False, "")


def _show_addresses(settings: Settings, found: dict[str, Any]) -> None:
    click.echo(f"  API            {found['url']}/v1")
    click.echo(f"  API docs       {found['docs']}")
    if found["dashboard"]:
        click.echo(f"  Ray dashboard  {found['dashboard']}   (token: {settings.home / 'ray.token'})")


@click.command()
@click.option("--keep", is_flag=True, help="Leave Luthier running at the end.")
def demo(keep: bool) -> None:
    """Tune the small base model on a sample table, and compare it with the base."""
    from luthier.cli.demo import run_demo

    run_demo(keep)
