"""Luthier: fine-tune language models on your own data and serve them, on Ray.

Imports nothing heavy; `Client` is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.cli.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from luthier.cli.client import Client

        return Client
    raise AttributeError(f"module 'luthier' has no attribute {name!r}")
