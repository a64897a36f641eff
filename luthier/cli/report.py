"""The data report for people: faults, or tokens, price, time, advice, rows by length, and samples as they are read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from luthier.cli.render import console

BAR_WIDTH = 40
LEARNED, WARNING, FAULT = "bold green", "yellow", "bold red"


def show_report(report: Mapping[str, Any], to: Console = console) -> None:
    """Learned text is green, or in [[...]] where there is no colour."""
    is_plain = to.color_system is None or to.no_color
    block = "#" if is_plain or not to.encoding.startswith("utf") else "\u2588"
    for line in _lines(report, is_plain, block):
        to.print(line)


def _lines(report: Mapping[str, Any], is_plain: bool, block: str) -> Iterator[Text]:
    split = " (split off)" if report["validation_split"] else ""
    yield _fact("rows", f"{report['rows']:,} to train on, {report['validation_rows']:,} to validate on{split}")
    if report["faults"]:
        yield from _faults(report["faults"])
        return
    learned = f"{report['learned_tokens']:,} ({report['learned_tokens'] / report['tokens']:.0%}) of them learned"
    yield _fact("tokens", f"{report['tokens']:,} an epoch, {learned}; the longest row has {report['longest_row']:,}")
    steps = f"{report['steps']:,} steps" if report["steps"] else "steps as the batch is measured"
    yield _fact("training", f"{report['duration']}: {report['trained_tokens']:,} tokens, {steps}")
    yield _fact("price", f"{report['credits']} credits (prices of {report['price_version']})")
    yield _fact("time", _time(report["seconds"]))
    for warning in report["warnings"]:
        yield Text.assemble(_fact("warning", ""), (warning, WARNING))
    yield Text("\nrows by tokens")
    yield from _bars(report["histogram"], block)
    for number, sample in enumerate(report["samples"], 1):
        yield Text(f"\nsample {number}, what is learned in {'[[...]]' if is_plain else 'green'}")
        yield _sample(sample, is_plain)


def _fact(name: str, value: str) -> Text:
    return Text(f"{name:<9} {value}")


def _faults(faults: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    yield Text("CREATE refuses this data. Mend these rows, or leave them out with WHERE:", FAULT)
    for fault in faults:
        rows = ", ".join(map(str, fault["rows"])) + (", ..." if fault["count"] > len(fault["rows"]) else "")
        yield Text(f"  {fault['count']:,} {fault['of']} rows: {fault['what']} (row {rows})")


def _time(seconds: Sequence[int] | None) -> str:
    if seconds is None:
        return "not known: no such run has ended here yet"
    shortest, longest = map(_span, seconds)
    return f"about {shortest}" if shortest == longest else f"{shortest} to {longest}"


def _span(seconds: int) -> str:
    if seconds < 100:
        return f"{seconds} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _bars(bins: Sequence[Mapping[str, int]], block: str) -> Iterator[Text]:
    most, width = max(each["rows"] for each in bins), max(len(f"{each['up_to']:,}") for each in bins)
    for each in bins:
        bar = block * max(1, round(BAR_WIDTH * each["rows"] / most))
        yield Text(f"  to {each['up_to']:>{width},} {bar} {each['rows']:,}")


def _sample(pieces: Sequence[Mapping[str, Any]], is_plain: bool) -> Text:
    text = Text()
    for piece in pieces:
        shown = _printable(piece["text"])
        if piece["learned"]:
            text.append(f"[[{shown}]]" if is_plain else shown, "" if is_plain else LEARNED)
        else:
            text.append(shown)
    return Text("\n").join([Text.assemble("  ", line) for line in text.split("\n")])


def _printable(text: str) -> str:
    """Data must not steer the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)
