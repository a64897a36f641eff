"""luthier audit list | verify."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON, parse_time
from luthier.cli.render import show, show_one
from luthier.errors import AuditBroken

COLUMNS = ("number", "time", "user", "key", "action", "object_kind", "object_name", "source", "is_allowed", "reason")
UNKNOWN = click.option("--unknown", is_flag=True, help="Of callers whose key nobody knows; for who runs the platform.")


@click.group()
def audit() -> None:
    """Who did what to which object, from where, allowed or not. For ACCOUNTADMIN."""


@audit.command("list")
@click.option("--since", help="From this date or time on.")
@click.option("--until", help="Before this date or time.")
@click.option("--user", help="Of this user.")
@click.option("--action", help="Of this kind: create_job, revoke_key, ...")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@UNKNOWN
@AS_JSON
def list_audit(since: str | None, until: str | None, limit: int, unknown: bool, as_json: bool, **given: str) -> None:
    """List changes and refusals, newest first."""
    rows = Client().audit.list(limit, unknown, since=parse_time(since), until=parse_time(until), **given)
    show(rows, COLUMNS, as_json, "Nothing was changed or refused in this time.")


@audit.command()
@click.option("--anchor", metavar="COUNT:HASH", help="As an earlier verify printed it: all up to it must be there.")
@UNKNOWN
@AS_JSON
def verify(anchor: str | None, unknown: bool, as_json: bool) -> None:
    """Walk the chain of the audit and name the first row that is not as it was written."""
    verdict = Client().audit.verify(anchor, unknown)
    if as_json:
        show_one(verdict, as_json)
    if not verdict["is_whole"]:
        raise AuditBroken(f"The audit is broken at row {verdict['broken']}: {verdict['reason']}.")
    if not as_json:
        click.echo(f"The audit is whole: {verdict['rows']} rows.")
        click.echo(f"anchor  {verdict['anchor']}")
        click.echo("Keep the anchor elsewhere: with it, the next verify finds a chain that was made anew or cut.")
