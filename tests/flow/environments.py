"""Clients as they are in environments of their own, where they want other packages than ours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

UNREACHABLE = ("dns error", "Failed to fetch", "error sending request", "Network is unreachable", "timed out")
INSTALL_SECONDS, RUN_SECONDS = 300, 200
"""A hundred megabytes from a registry that may be slow; what is imported then is compiled first."""
SECONDS = 3 * INSTALL_SECONDS + RUN_SECONDS


def environment(folder: Path, *packages: str, alone: str) -> Path:
    """The interpreter of an environment that has `packages`, and `alone` without what that depends on."""
    python = folder / "venv" / "bin" / "python"
    _uv("venv", "--python", sys.executable, str(folder / "venv"))
    _uv("pip", "install", "--python", str(python), *packages)
    _uv("pip", "install", "--python", str(python), "--no-deps", alone)
    return python


def _uv(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uv", *words], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode and any(fault in done.stderr for fault in UNREACHABLE):
        pytest.skip(f"NOT TESTED: no registry is reached for these clients: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr


def told_by(interpreter: Path, script: Path, *words: str) -> dict[str, Any]:
    """What the script prints last, a JSON object."""
    run = [str(interpreter), "-W", "ignore", str(script), *words]
    done = subprocess.run(run, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
