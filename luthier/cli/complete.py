"""luthier complete."""

import json
import sys
from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON


@click.command()
@click.argument("model")
@click.argument("prompt")
@click.option("--system", help="A system message before the prompt.")
@click.option("--temperature", type=float, help="0 (the default) always takes the likeliest token.")
@click.option("--top-p", type=float)
@click.option("--max-tokens", type=int)
@click.option("--stream", is_flag=True, help="Print the answer as it is generated.")
@AS_JSON
def complete(  # noqa: PLR0913 - click hands over one argument an option
    model: str,
    prompt: str,
    system: str | None,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int | None,
    stream: bool,
    as_json: bool,
) -> None:
    """Ask MODEL (a base or tuned model) to answer PROMPT. A PROMPT of - is read from stdin."""
    client = Client()
    text = sys.stdin.read() if prompt == "-" else prompt
    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if stream:
        for piece in client.stream(model, text, options, system):
            click.echo(piece, nl=False)
        click.echo()
    elif as_json:
        click.echo(json.dumps(client.complete(model, text, options, system), indent=2))
    else:
        click.echo(client.complete(model, text, options, system)["choices"][0]["messages"])
