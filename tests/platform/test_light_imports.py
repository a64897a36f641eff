"""What the command line and the registry load, and what the standard library keeps."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "vllm", "ray", "fastapi"}


def child(code: str) -> set[str]:
    """Words that a fresh Python in the checkout's root prints."""
    return set(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split())


def test_command_line_and_registry_stay_light() -> None:
    code = "import sys, luthier.cli.main, luthier.platform.registry.registry; print(*sys.modules)"
    loaded = child(code)
    assert "luthier.platform.registry.registry" in loaded
    assert not loaded & HEAVY


def test_the_client_stays_light() -> None:
    assert not child("import sys, luthier; luthier.Client; print(*sys.modules)") & (HEAVY | {"pyarrow", "duckdb"})


def test_the_gateway_loads_no_torch() -> None:
    loaded = child("import sys, luthier.serve.api; print(*sys.modules)")
    assert "luthier.platform.weights.importing" in loaded
    assert not loaded & {"torch", "transformers", "vllm", "ray"}


def test_the_standard_platform_is_found_from_the_root() -> None:
    assert child("import platform; print(platform.system())") == {"Linux"} or sys.platform != "linux"
    assert child("import platform; print(platform.__name__, hasattr(platform, 'system'))") == {"platform", "True"}
