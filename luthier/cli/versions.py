"""luthier models versions | history | promote | rollback | canary | alias | warm."""

from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, tell
from luthier.errors import InvalidInput

NO_WARM = click.option("--no-warm", is_flag=True, help="Do not have the engines load it first.")
COLUMNS = ("version", "aliases", "answers", "base_model", "method", "rank", "validation_loss", "proof", "job_id")


@click.command()
@click.argument("model")
@AS_JSON
def versions(model: str, as_json: bool) -> None:
    """List the versions of a model, oldest first."""
    rows = Client().models.versions(model)
    show(rows if as_json else [version_line(row) for row in rows], COLUMNS, as_json, "No versions.")


@click.command()
@click.argument("model")
@AS_JSON
def history(model: str, as_json: bool) -> None:
    """Show who changed what a model's name means, and when."""
    show(Client().models.history(model), ("time", "user", "verb", "version", "detail"), as_json, "No changes.")


@click.command()
@click.argument("model")
@click.argument("version")
@NO_WARM
@AS_JSON
def promote(model: str, version: str, no_warm: bool, as_json: bool) -> None:
    """Make VERSION (3, V3 or an alias) the one that answers for MODEL."""
    _say(Client().models.promote(model, version, warm=not no_warm), as_json)


@click.command()
@click.argument("model")
@NO_WARM
@AS_JSON
def rollback(model: str, no_warm: bool, as_json: bool) -> None:
    """Go back to the version that answered for MODEL before."""
    _say(Client().models.rollback(model, warm=not no_warm), as_json)


@click.command()
@click.argument("model")
@click.argument("version", required=False)
@click.argument("share", required=False, metavar="SHARE%")
@click.option("--off", is_flag=True, help="End it: the default answers all requests again.")
@NO_WARM
@AS_JSON
def canary(model: str, version: str | None, share: str | None, off: bool, no_warm: bool, as_json: bool) -> None:
    """Give VERSION a share of MODEL's requests, such as 5%, until it is promoted or --off."""
    if off == (version is not None) or (version is None) != (share is None):
        raise InvalidInput("Give a version and its share (luthier models canary MODEL 3 5%), or --off.")
    models = Client().models
    if version is None or share is None:
        _say(models.end_canary(model), as_json)
    else:
        _say(models.canary(model, version, _percent(share), warm=not no_warm), as_json)


@click.command()
@click.argument("model")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--remove", is_flag=True, help="The alias means nothing any more.")
@AS_JSON
def alias(model: str, name: str, version: str | None, remove: bool, as_json: bool) -> None:
    """Have MODEL@NAME mean VERSION from now on."""
    if remove == (version is not None):
        raise InvalidInput("Give a version (luthier models alias MODEL NAME 3), or --remove.")
    models = Client().models
    _say(models.drop_alias(model, name) if version is None else models.alias(model, name, version), as_json)


@click.command()
@click.argument("model")
@AS_JSON
def warm(model: str, as_json: bool) -> None:
    """Have the engines load MODEL, or MODEL@VERSION, before anybody asks for it."""
    version = Client().models.warm(model)
    tell(version, f"Version {version['version']} of {version['model']} is loaded.", as_json)


COMMANDS = (versions, history, promote, rollback, canary, alias, warm)


def version_line(row: dict[str, Any]) -> dict[str, Any]:
    """What a table shows of a version."""
    answers = f"{row['share']:g}%" if row["share"] else ""
    return {**row, "answers": answers, "proof": row["proof"]["state"], "job_id": row["job_id"] or "imported"}


def state_of(model: dict[str, Any]) -> dict[str, str]:
    """What a model's name means, in words for a table."""
    share, canary = model["canary_share"], model["canary_version"]
    aliases = ", ".join(f"{name}={version}" for name, version in model["aliases"].items())
    return {"aliases": aliases, "canary": f"{canary} ({share:g}%)" if canary else ""}


def _say(model: dict[str, Any], as_json: bool) -> None:
    more = "".join(f", {name} {told}" for name, told in state_of(model).items() if told)
    tell(model, f"Model {model['model']}: version {model['default_version']} is the default{more}.", as_json)


def _percent(text: str) -> float:
    try:
        return float(text.removesuffix("%"))
    except ValueError as error:
        raise InvalidInput(f"The share {text!r} is no number of percent: write 5% or 0.5%.") from error
