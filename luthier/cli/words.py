"""What others say of a failure, in a line."""

import re

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
TELLS = re.compile(r"Error|Exception|exit code|exited|^\w+(\.\w+)+: ")
OURS = re.compile(r"^luthier\.errors\.\w+: ")


def plain(text: str) -> str:
    return COLOURS.sub("", text)


def last_words(text: str, silence: str = "") -> str:
    """The line of a traceback or a log that says why, without its full stop; `silence` where none does."""
    lines = [line.strip() for line in plain(text).splitlines() if line.strip()]
    telling = [line for line in lines if TELLS.search(line)]
    found = telling or ([silence] if silence else lines) or ["no reason given"]
    return OURS.sub("", found[-1]).rstrip(".")
