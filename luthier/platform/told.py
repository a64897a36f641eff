"""Texts of the platform's own, such as an error's: whatever is in them, the store takes them."""

from typing import Annotated, Any

from pydantic import BeforeValidator


def storable(text: str) -> str:
    """PostgreSQL keeps no NUL, and UTF-8 no half of a pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _told(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


Told = Annotated[str, BeforeValidator(_told)]
"""What someone is told of an end or a fault: to refuse it would hide both."""
