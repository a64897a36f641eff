"""vLLM's own counters against what was asked of it: prompts, choices, probes, and clients that leave."""

import asyncio
import os
from pathlib import Path
from unittest import mock

import pytest

from luthier.errors import InvalidValue
from luthier.platform.base_models import load_catalog
from luthier.platform.settled import EngineCounts, Totals
from luthier.serve.complete import Tally
from luthier.serve.metering.engine_counts import vllm_counters
from tests.e2e.asked import Asked
from tests.e2e.live import LONG, TOML
from tests.factories import make_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_all_that_was_asked_explains_vllms_counters(tiny_model: Path, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, tiny_model)
    (tmp_path / "base_models" / "tiny.toml").write_text(TOML.format(path=tiny_model))
    base = load_catalog(settings).get("tiny")

    async def ask_all() -> None:
        asked = Asked(base, tiny_model)
        try:
            before = vllm_counters()
            assert before is not None
            whole, several, again, refused, left = (Tally() for _ in range(5))
            await asked.ask("whole", whole)
            await asked.ask("whole", several, n=3)
            await asked.ask("whole", again)  # its prompt is in vLLM's cache
            await asked.engine.score([1, 2, 3, 4], 1, None)
            with pytest.raises(InvalidValue):
                await asked.ask("whole", refused, prompts=["the fox", [10**9]])
            stream = asked.ask("stream", left, max_tokens=LONG)
            await anext(stream)
            await stream.aclose()
            after = vllm_counters()
            assert after is not None
            billed = [whole, several, again, refused, left]
            counts = EngineCounts(
                prompt_tokens=after["prompt_tokens"] - before["prompt_tokens"],
                generation_tokens=after["generation_tokens"] - before["generation_tokens"],
                billed=Totals(
                    prompt_tokens=sum(tally.prompt for tally in billed),
                    completion_tokens=sum(tally.completion for tally in billed),
                ),
                probes=Totals(
                    prompt_tokens=asked.engine.probed.prompt, completion_tokens=asked.engine.probed.completion
                ),
                repeated_prompt_tokens=2 * several.prompt,
            )
            assert counts.difference == (0, 0), counts
        finally:
            await asked.close()

    with mock.patch.dict(os.environ):
        asyncio.run(ask_all())
