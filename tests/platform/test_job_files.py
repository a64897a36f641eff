"""Each job file that ships says something that this version takes."""

from pathlib import Path

import pytest

from luthier.platform.base_models import load_catalog
from luthier.platform.data.recipe import batch_of, rendering_of
from luthier.platform.frozen import read_toml
from luthier.platform.names import parse_name
from luthier.platform.options import parse_options
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.wire import CreateJob

pytestmark = pytest.mark.stores

FILES = sorted((configs_dir() / "jobs").glob("*.toml"))


def test_there_are_some() -> None:
    assert {file.stem for file in FILES} >= {"one_gpu", "eight_gpus", "four_nodes"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_job_file_is_a_job(file: Path, settings: Settings) -> None:
    job = read_toml(file, CreateJob)
    parse_name(job.model, "D", "S")
    options, base = parse_options(job.options), load_catalog(settings).get(job.base_model)
    how = rendering_of(base, options)
    assert options.lora_rank <= base.max_rank
    assert options.context_length == how.max_tokens
    assert (batch := batch_of(options, how))
    assert batch.tokens
    assert batch.tokens >= how.max_tokens * (options.num_workers or 1) // 4
