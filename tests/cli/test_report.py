"""The data report on a terminal, and where there is none."""

import io
from typing import Any

import pytest
from rich.console import Console

from luthier.cli.report import show_report

REPORT: dict[str, Any] = {
    "rows": 7100,
    "validation_rows": 373,
    "validation_split": True,
    "faults": [],
    "tokens": 1000,
    "learned_tokens": 250,
    "longest_row": 569,
    "histogram": [{"up_to": 16, "rows": 1}, {"up_to": 1024, "rows": 200}, {"up_to": 2048, "rows": 100}],
    "samples": [
        [
            {"text": "<|user|>\nwhat?<|assistant|>\n", "learned": False},
            {"text": "42 [b]\nand more<|end|>", "learned": True},
        ]
    ],
    "duration": "3ep",
    "steps": 12,
    "trained_tokens": 3000,
    "price_version": "2026-11-01",
    "credits": "0.0003",
    "seconds": None,
    "warnings": ["Fewer tokens (1,000) than one context (8,192)"],
}


def shown(colour: bool = False, encoding: str = "utf-8", **given: Any) -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    show_report(
        {**REPORT, **given},
        Console(file=out, width=100, force_terminal=colour, color_system="auto" if not colour else "standard"),
    )
    out.seek(0)
    return out.read()


def test_a_plain_report() -> None:
    lines = shown().splitlines()
    assert lines[:6] == [
        "rows      7,100 to train on, 373 to validate on (split off)",
        "tokens    1,000 an epoch, 250 (25%) of them learned; the longest row has 569",
        "training  3ep: 3,000 tokens, 12 steps",
        "price     0.0003 credits (prices of 2026-11-01)",
        "time      not known: no such run has ended here yet",
        "warning   Fewer tokens (1,000) than one context (8,192)",
    ]
    assert lines[7:11] == [
        "rows by tokens",
        "  to    16 # 1",
        "  to 1,024 ######################################## 200",
        "  to 2,048 #################### 100",
    ]
    assert lines[12:] == [
        "sample 1, what is learned in [[...]]",
        "  <|user|>",
        "  what?<|assistant|>",
        "  [[42 [b]",
        "  and more<|end|>]]",
    ]


def test_a_terminal_shows_what_is_learned_in_colour() -> None:
    text = shown(colour=True)
    assert "\x1b[1;32m42 [b]\x1b[0m" in text
    assert "\x1b[1;32mand more<|end|>\x1b[0m" in text
    assert "[[" not in text
    assert "what?<|assistant|>" in text
    assert "\u2588" * 40 + " 200" in text
    assert "#" not in shown(colour=True).replace("####", "")


def test_a_terminal_without_blocks() -> None:
    assert "#" * 40 + " 200" in shown(colour=True, encoding="latin-1")


def test_no_colour_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[[42 [b]" in shown(colour=True)


def test_faults_come_without_the_rest() -> None:
    faults = [
        {"what": "completion is empty", "count": 7, "rows": [3, 5, 7, 9, 11], "of": "training"},
        {"what": "prompt is NULL", "count": 1, "rows": [2], "of": "validation"},
    ]
    assert shown(faults=faults, validation_split=False).splitlines()[1:] == [
        "CREATE refuses this data. Mend these rows, or leave them out with WHERE:",
        "  7 training rows: completion is empty (row 3, 5, 7, 9, 11, ...)",
        "  1 validation rows: prompt is NULL (row 2)",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((45, 45), "about 45 s"),
        ((90, 200), "90 s to 3 min"),
        ((3600, 9000), "60 min to 2.5 h"),
    ],
)
def test_times(seconds: tuple[int, int], text: str) -> None:
    assert f"time      {text}\n" in shown(seconds=seconds)


def test_data_does_not_steer_the_terminal() -> None:
    sample = [[{"text": "a\x1b[2Jb\rc\x07\td\u202e", "learned": False}, {"text": "\x9b31m", "learned": True}]]
    text = shown(samples=sample)
    assert not {"\x1b", "\r", "\x07", "\x9b", "\u202e"} & set(text)
    assert "a\\x1b[2Jb\\rc\\x07" in text


def test_an_automatic_batch_has_no_number_of_steps() -> None:
    assert "training  3ep: 3,000 tokens, steps as the batch is measured" in shown(steps=None)
