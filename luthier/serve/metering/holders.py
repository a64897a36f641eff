"""Who holds leases of credit, by files beside the usage that they spool: an heir knows whom he follows."""

import uuid
from collections.abc import Callable
from pathlib import Path

from luthier.platform.settled import spool_files
from luthier.serve.metering.living import PROCESS, live
from luthier.serve.metering.usage import is_written


class Holders:
    """Files `<process>-<number>.holder` with the holder's name. Made before the spool, whose files it must not miss."""

    def __init__(self, folder: Path, end_holder: Callable[[str], int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        live(folder)
        self._end_holder = end_holder
        self._gone = [file for file in spool_files(folder, "holder") if not is_written(file)]
        self.name = f"replica_{uuid.uuid4().hex}"
        own = len(list(folder.glob(f"{PROCESS}-*.holder"))) + 1
        (folder / f"{PROCESS}-{own}.holder").write_text(self.name)

    def inherited(self) -> None:
        """The usage of those that were gone is in the ledger: what they leased comes back."""
        while self._gone:
            file = self._gone[0]
            if file.is_file():
                self._end_holder(file.read_text())
                file.unlink(missing_ok=True)
            self._gone.pop(0)
