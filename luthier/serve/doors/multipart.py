"""The files of a multipart/form-data body, written into a folder as they come: no body is held in memory."""

from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from luthier.errors import InvalidInput

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD = 1_024
"""Bytes of a part that is no file."""


async def receive_files(
    content_type: str,
    body: AsyncIterator[bytes],
    folder: Path,
    check_name: Callable[[str], None],
    fields: Collection[str] = (),
) -> dict[str, str]:
    """Each under its own name without folders; `check_name` raises for one that is not wanted, before it is read.

    Gives back the parts that are no files; only `fields` may be.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidInput("Send the files as multipart/form-data, each with its filename.")
    parts = _Parts(folder, check_name, fields)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        async for piece in body:
            parser.write(piece)
    except FormParserError as error:
        raise InvalidInput(f"The body is not valid multipart/form-data: {error}.") from error
    finally:
        parts.close()
    if not parts.is_whole:
        raise InvalidInput("The body ends before its last file does. Send it again.")
    return {name: text.decode("utf-8", "replace") for name, text in parts.values.items()}


class _Parts:
    """What the parser calls as it goes through a body."""

    def __init__(self, folder: Path, check_name: Callable[[str], None], fields: Collection[str]) -> None:
        self._folder, self._check_name, self._fields = folder, check_name, fields
        self._file: BinaryIO | None = None
        self._name = ""
        self.values: dict[str, bytes] = {}
        self._field = self._value = self._disposition = b""
        self.is_whole = False

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _begin(self) -> None:
        self._disposition = b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options and self._name in self._fields:
            self.values[self._name] = b""
            return
        name = Path(options.get(b"filename", b"").decode("utf-8", "replace")).name
        if name in ("", ".."):
            raise InvalidInput("A part of the body is no file: send each with its filename.")
        self._check_name(name)
        if (self._folder / name).exists():
            raise InvalidInput(f"{name} is sent twice.")
        self._file = (self._folder / name).open("wb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self.values[self._name] += data[start:end]
        if len(self.values[self._name]) > MAX_FIELD:
            raise InvalidInput(f"{self._name} is longer than {MAX_FIELD} bytes.")

    def _end(self) -> None:
        self.is_whole = True
