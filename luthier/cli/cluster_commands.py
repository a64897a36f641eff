"""luthier up | down | status | demo."""

import sys
import time

import click

from luthier.cli.options import AS_JSON
from luthier.cli.render import show_one
from luthier.platform.settings import load_settings


def _say(text: str) -> None:
    click.echo(f"... {text}", err=True)


@click.command()
@click.option("--address", metavar="HOST:PORT", help="Join the Ray whose GCS listens there, instead of starting one.")
@AS_JSON
def up(address: str | None, as_json: bool) -> None:
    """Start Luthier, or find it started."""
    from luthier.cli import cluster

    settings, began = load_settings(), time.monotonic()
    started = cluster.up(settings, address, _say)
    found = cluster.status(settings)
    if started.new_key:
        found["api_key"] = started.new_key
    if as_json:
        show_one(found, as_json)
        return
    click.echo("Luthier is up already." if started.was_up else f"Luthier is up ({time.monotonic() - began:.0f} s).")
    click.echo(f"  API            {found['url']}/v1")
    click.echo(f"  API docs       {found['docs']}")
    if found["dashboard"]:
        click.echo(f"  Ray dashboard  {found['dashboard']}   (token: {settings.home / 'ray.token'})")
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
    from luthier.cli import cluster

    found = cluster.status(load_settings())
    show_one(found, as_json)
    sys.exit(0 if found["up"] else 1)


@click.command()
@click.option("--keep", is_flag=True, help="Leave Luthier running at the end.")
def demo(keep: bool) -> None:
    """Tune the small base model on a sample table, and compare it with the base."""
    from luthier.cli.demo import run_demo

    run_demo(keep)
