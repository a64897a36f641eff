"""What the command line makes of options before it sends them."""

from typing import Any

import pytest

from luthier.cli.options import parse_set, training_options
from luthier.errors import InvalidInput

NONE: dict[str, Any] = {"task_type": None, "max_epochs": None, "batch_size": None, "eval_prompts": ()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("2e-4", 2e-4),
        (".5", 0.5),
        ("3ep", "3ep"),
        ("16_384tok", "16_384tok"),
        ("cosine", "cosine"),
        ("", ""),
        ("a=b", "a=b"),
        ('["q_proj", "v_proj"]', ["q_proj", "v_proj"]),
        ('"3"', "3"),
        ("null", None),
        ("nan", "nan"),
        ("-inf", "-inf"),
        ("Infinity", "Infinity"),
        ("[1", "[1"),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parse_set((f" key = {text}",)) == {"key": value}


def test_flags_and_sets_together() -> None:
    flags = {**NONE, "task_type": "DPO", "max_epochs": 0, "eval_prompts": ("why?",)}
    assert training_options(("seed=7",), flags) == {
        "seed": 7,
        "task_type": "DPO",
        "max_epochs": 0,
        "eval_prompts": ("why?",),
    }
    assert training_options((), NONE) == {}


@pytest.mark.parametrize(("size", "value"), [("8", 8), ("16_384tok", "16_384tok"), ("auto", "auto")])
def test_a_batch_size_is_a_number_or_text(size: str, value: object) -> None:
    assert training_options((), {**NONE, "batch_size": size}) == {"batch_size": value}


@pytest.mark.parametrize(
    ("sets", "flags", "words"),
    [
        (("seed",), {}, "--set seed: write key=value"),
        (("seed=1", "seed=2"), {}, "Option seed is given twice by --set"),
        (("max_epochs=1",), {"max_epochs": 2}, "Option max_epochs is given twice: as a flag of its own and by --set"),
    ],
)
def test_options_that_are_refused(sets: tuple[str, ...], flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        training_options(sets, {**NONE, **flags})
