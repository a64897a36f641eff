"""What a run's processes say, as files in the run's folder that outlive them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

log = logging.getLogger(__name__)

MAX_BYTES = 4 << 20
"""Of a file; the one before it is kept as well."""


@contextmanager
def run_log(file: Path) -> Iterator[None]:
    """Appends what Luthier logs in this process, what others warn of, and the error that ends the block."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(file, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
    handler.addFilter(_matters)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("luthier").setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except Exception:
        log.exception("ended by an error")
        raise
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        handler.close()


def _matters(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.startswith("luthier")
