import logging
import warnings
from pathlib import Path

import pytest

from luthier.train.run_log import run_log


def test_a_log_tells_events_warnings_and_the_end(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "worker-0.log"
    with run_log(file):
        logging.getLogger("luthier.train").info("step %d", 1)
        logging.getLogger("ray.train").info("chatter")
        warnings.warn("slow disk", stacklevel=1)
    with pytest.raises(ValueError, match="broken"), run_log(file):
        raise ValueError("broken")
    logging.getLogger("luthier.train").info("after the run")
    text = file.read_text()
    for words in ("INFO luthier.train: step 1", "slow disk", "ended by an error", "ValueError: broken"):
        assert words in text
    assert "after the run" not in text
    assert "chatter" not in text
