"""What every result says of itself: when, at which commit, on what machine, with which packages."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

PACKAGES = ("ray", "torch", "transformers", "peft")
OUT = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the result goes as well.")


def heading(title: str, packages: Iterable[str], *more: str, device: str = "cpu") -> str:
    """The first lines; `more` are facts of this benchmark alone."""
    versions = (f"{name} {version(name)}" for name in packages)
    facts = (f"{datetime.now(UTC):%Y-%m-%d}", f"commit {_commit()}", _machine(device), *versions, *more)
    return f"# {title}\n\n{', '.join(facts)}"


def tell(text: str, out: Path | None) -> None:
    click.echo(text)
    if out:
        out.write_text(text)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False).stdout.strip()


def _machine(device: str) -> str:
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} x {found[1] if found else platform.machine()}"
