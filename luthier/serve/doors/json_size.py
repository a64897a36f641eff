"""How much work a JSON text is for its reader, counted while it comes in: bytes tell little of it."""

from luthier.errors import TooLarge

MAX_NAMES = 32_768
"""Names of members, and brackets, of all that is nested: 10,000 messages have so many, and take 30 ms to be read."""
MAX_VALUES = 532_480
"""Elements and members: 128 prompts of 4,096 tokens, which take as long, and room for what stands beside."""


class JsonSize:
    """Of one text that comes in pieces. Each is looked at once, and none is kept."""

    def __init__(self) -> None:
        self._num_names = self._num_values = 0
        self._is_in_string = False
        self._half = b""
        """A backslash at the end of a piece: what it escapes is in the next."""

    def add(self, piece: bytes) -> None:
        """TooLarge when it is too much by now."""
        bare = self._outside_strings(piece)
        self._num_names += bare.count(b"[") + bare.count(b"{") + bare.count(b":")
        self._num_values += bare.count(b",")
        if self._num_names > MAX_NAMES:
            raise _too_much(f"{MAX_NAMES:,} names and brackets: 10,000 messages have so many")
        if self._num_values > MAX_VALUES:
            raise _too_much(f"{MAX_VALUES:,} values: so many tokens may be sent")

    def _outside_strings(self, piece: bytes) -> bytes:
        text = self._half + piece
        num_escaping = len(text) - len(text.rstrip(b"\\"))
        num_whole = len(text) - num_escaping % 2
        text, self._half = text[:num_whole], text[num_whole:]
        parts = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = parts[1::2] if self._is_in_string else parts[::2]
        if len(parts) % 2 == 0:
            self._is_in_string = not self._is_in_string
        return b"".join(outside)


def _too_much(what: str) -> TooLarge:
    return TooLarge(f"The request body has more than {what}. Send less at once.")
