"""The input file of a batch: JSON lines of custom_id, method, url, body; read, and checked before any is answered."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from luthier.errors import TooLarge
from luthier.platform.batches import BatchFault, Line

MAX_LINES = 50_000
MAX_FAULTS = 50
"""Told of one file; there may be more."""
KEYS = ("custom_id", "method", "url", "body")


def read_lines(file: Path, endpoint: str, max_bytes: int) -> Iterator[Line]:
    """Of a file without faults."""
    for number, text in _texts(file, max_bytes):
        line = _line(number, text, endpoint, max_bytes)
        assert isinstance(line, Line), f"{file}:{number} has a fault"
        yield line


def check_lines(
    file: Path, endpoint: str, max_bytes: int, check_size: Callable[[bytes], None]
) -> tuple[int, list[BatchFault]]:
    """How many there are, and the first faults. `check_size` raises TooLarge of a text that is too much to be read."""
    total, faults, seen = 0, list[BatchFault](), set[str]()
    for number, text in _texts(file, max_bytes):
        total += 1
        line = _too_much(number, text, check_size) or _line(number, text, endpoint, max_bytes)
        if isinstance(line, Line) and line.custom_id in seen:
            message = f"The custom_id {line.custom_id[:64]!r} is an earlier line's already."
            line = BatchFault(code="duplicate_custom_id", message=message, line=number, param="custom_id")
        if isinstance(line, BatchFault):
            faults.append(line)
        else:
            seen.add(line.custom_id)
        if total > MAX_LINES:
            too_many = f"A batch has at most {MAX_LINES} requests: send the others in another."
            return total, [*faults, BatchFault(code="too_many_tasks", message=too_many)]
        if len(faults) == MAX_FAULTS:
            return total, faults
    if not total:
        faults.append(BatchFault(code="empty_file", message="The file has no requests."))
    return total, faults


def _texts(file: Path, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, and their numbers; of one over the limit its beginning."""
    with file.open("rb") as lines:
        number = 0
        while text := lines.readline(max_bytes + 1):
            number += 1
            rest = text
            while len(rest) > max_bytes and not rest.endswith(b"\n"):
                rest = lines.readline(max_bytes + 1)
            if text.strip():
                yield number, text


def _too_much(number: int, text: bytes, check_size: Callable[[bytes], None]) -> BatchFault | None:
    try:
        check_size(text)
    except TooLarge as error:
        return BatchFault(code="invalid_json_line", message=str(error), line=number)
    return None


def _line(number: int, text: bytes, endpoint: str, max_bytes: int) -> Line | BatchFault:
    def fault(code: str, message: str, param: str | None = None) -> BatchFault:
        return BatchFault(code=code, message=message, line=number, param=param)

    if len(text) > max_bytes:
        return fault("invalid_json_line", f"This line is over the limit of {max_bytes >> 20} MiB.")
    try:
        asked: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        return fault("invalid_json_line", f"This line is not valid JSON: {error}.")
    if not isinstance(asked, dict):
        return fault("invalid_json_line", "This line is no JSON object.")
    for key in KEYS:
        if key not in asked:
            return fault("missing_required_parameter", f"This line has no {key}.", key)
    if unknown := sorted(set(asked) - set(KEYS)):
        return fault("unknown_parameter", f"This line has {unknown[0][:64]!r}; there are {', '.join(KEYS)}.")
    return _faulty_value(number, asked, endpoint) or Line(
        number=number, custom_id=asked["custom_id"], body=json.dumps(asked["body"]).encode()
    )


def _faulty_value(number: int, asked: dict[str, Any], endpoint: str) -> BatchFault | None:
    custom_id, method, url, body = (asked[key] for key in KEYS)
    if not isinstance(custom_id, str) or not custom_id:
        code, param, message = "invalid_custom_id", "custom_id", "custom_id must be a text that is not empty."
    elif method != "POST":
        code, param, message = "invalid_method", "method", "method must be POST."
    elif url != endpoint:
        code, param, message = "url_mismatch", "url", f"url must be the batch's endpoint, {endpoint}."
    elif not isinstance(body, dict):
        code, param, message = "invalid_body", "body", "body must be a JSON object."
    else:
        return None
    return BatchFault(code=code, message=message, line=number, param=param)
