"""Room for answers that are made whole before they are sent: so many bytes of one, and of all that a gateway has."""

from contextlib import ExitStack
from threading import Lock

from luthier.errors import InvalidSql
from luthier.platform.settings import MIB, Settings
from luthier.serve.admission import Admission

STEP = 1 << 16
"""Bytes that are taken together."""


class AnswerRoom:
    """Of one process. Accounts share it as they share an engine's places; answers are made in threads."""

    def __init__(self, settings: Settings) -> None:
        self.most_mib = settings.max_answer_mib
        """Of one answer."""
        words = "Too much is answered at once: {} bytes of answers are made or read"
        self._all = Admission(0, settings.max_answers_mib * MIB, words=words)
        self._lock = Lock()

    @property
    def num_taken(self) -> int:
        return self._all.num_taken

    def take(self, held: ExitStack, account: str, num: int) -> None:
        """Until `give_back` of the same. Overloaded when the account cannot have so many now."""
        with self._lock:
            held.enter_context(self._all.place(account, num))

    def give_back(self, held: ExitStack) -> None:
        with self._lock:
            held.close()


class Held:
    """What one answer has of the room, or will have."""

    def __init__(self, room: AnswerRoom, account: str) -> None:
        self._room, self._account = room, account
        self._held, self._num = ExitStack(), 0

    def check(self, num: int) -> None:
        """InvalidSql when no answer may have so many bytes."""
        if num > self._room.most_mib * MIB:
            raise InvalidSql(f"The answer has more than {self._room.most_mib} MiB: select fewer rows or columns.")

    def grow(self, num: int) -> None:
        """To so many bytes, at least."""
        self.check(num)
        if num > self._num:
            more = -(-(num - self._num) // STEP) * STEP
            self._room.take(self._held, self._account, more)
            self._num += more

    def end(self) -> None:
        self._room.give_back(self._held)
