"""What doors ask again after a change: many questions in one call."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from luthier.errors import LuthierError

Answer = TypeVar("Answer")


def each(verb: Callable[..., Answer], asked: Iterable[tuple[Any, ...]]) -> list[Answer | LuthierError]:
    """For each question its answer, or the error it ended in."""
    return [_answer_or_error(verb, question) for question in asked]


def _answer_or_error(verb: Callable[..., Answer], question: tuple[Any, ...]) -> Answer | LuthierError:
    try:
        return verb(*question)
    except LuthierError as error:
        return error
