"""The `luthier` command. The one place that turns an error into one line on stderr and an exit status."""

import os
import sys
from typing import Any

import click

import luthier
from luthier.cli import (
    access,
    audit,
    base_models,
    batches,
    cluster_commands,
    complete,
    credits,
    databases,
    files,
    finetune,
    keys,
    ledger,
    limits,
    models,
    shares,
    sql,
    tables,
    usage,
    views,
    webhooks,
)
from luthier.cli.options import INTERRUPTED
from luthier.errors import LuthierError, RayEnded


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LuthierError as error:
            click.echo(f"Error: {error.message}", err=True)
            if isinstance(error, RayEnded):
                os._exit(error.exit)
            ctx.exit(error.exit)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            if "ray" in sys.modules:  # it may have ended under its driver, whose way out would wait for it
                sys.stdout.flush()
                os._exit(INTERRUPTED)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(luthier.__version__, prog_name="luthier")
def main() -> None:
    """Fine-tune language models on your own data and serve them, on your own Ray cluster."""


for command in (
    cluster_commands.up,
    cluster_commands.down,
    cluster_commands.status,
    cluster_commands.demo,
    finetune.finetune,
    complete.complete,
    batches.batches,
    files.files,
    sql.sql,
    models.models,
    base_models.base_models,
    tables.tables,
    views.views,
    *databases.COMMANDS,
    keys.keys,
    audit.audit,
    usage.usage,
    credits.credits,
    limits.limits,
    webhooks.webhooks,
    *access.COMMANDS,
    shares.shares,
    ledger.ledger,
):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
