"""Training data before training: the split, the report that is the bill, the limit, the snapshot."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from luthier.errors import BadDataset, InvalidInput
from luthier.platform import datasets
from luthier.platform.base_models import BaseModel, load_catalog
from luthier.platform.datasets import DataReport, Dataset, split
from luthier.platform.jobs import FinetuneOptions
from luthier.platform.prices import load_prices
from luthier.platform.prompts import load_prompts
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.storage import Storage, file_sha256
from luthier.train import data as trainer

PRICES = load_prices(configs_dir() / "prices.toml")


def table(num_rows: int, words: int = 1) -> pa.Table:
    prompts = [f"question {number} {'why ' * (number % 7) * words}" for number in range(num_rows)]
    return pa.table({"prompt": prompts, "completion": [f"answer {number}" for number in range(num_rows)]})


def numbers(rows: pa.Table) -> list[int]:
    return [int(text.split()[1]) for text in rows["completion"].to_pylist()]


@pytest.fixture
def base(settings: Settings) -> BaseModel:
    return load_catalog(settings).get("tiny")


def judged(data: Dataset, base: BaseModel, tiny_model: Path, max_epochs: int = 2) -> DataReport:
    return datasets.judge(data, base, FinetuneOptions(max_epochs=max_epochs), load_prompts(tiny_model), PRICES)


@hypothesis_settings(deadline=None)
@given(num_rows=st.integers(2, 300), seed=st.integers(0, 2**31 - 1))
def test_a_split_is_seeded_disjoint_and_whole(num_rows: int, seed: int) -> None:
    rows = table(num_rows)
    parted = split(rows, None, seed)
    kept, held = numbers(parted.training), numbers(parted.validation)
    assert sorted(kept + held) == list(range(num_rows))
    assert kept == sorted(kept)
    assert len(held) == max(1, num_rows // datasets.VALIDATION_SHARE)
    assert split(rows, None, seed).validation == parted.validation


def test_other_seeds_hold_out_other_rows() -> None:
    assert len({tuple(numbers(split(table(200), None, seed).validation)) for seed in range(5)}) > 1


def test_the_split_is_bounded() -> None:
    assert split(table(20_000), None, 0).validation.num_rows == datasets.MAX_SPLIT_ROWS


def test_one_row_serves_as_both() -> None:
    parted = split(table(1), None, 0)
    assert parted.training == parted.validation == table(1)


def test_given_validation_data_is_taken_as_it_is() -> None:
    parted = split(table(30), table(3), 0)
    assert (parted.training.num_rows, parted.validation.num_rows, parted.is_split) == (30, 3, False)


@pytest.mark.parametrize("words", [1, 120])
def test_the_report_counts_what_the_trainer_sees(base: BaseModel, tiny_model: Path, words: int) -> None:
    """Also where rows are cut at their shares."""
    parted = split(table(40, words), None, 3)
    report = judged(parted, base, tiny_model)
    prompts = load_prompts(tiny_model)
    seen = trainer.encode(parted.training, prompts, base.prompt_tokens, base.completion_tokens)
    tokens = sum(len(sample.ids) for sample in seen)
    assert (report.tokens, report.trained_tokens) == (tokens, tokens * 2)
    assert report.completion_tokens == sum(len(sample.ids) - sample.num_prompt for sample in seen)
    assert (report.rows, report.validation_rows, report.validation_split) == (38, 2, True)
    assert report.longest_row >= max(len(sample.ids) for sample in seen)
    assert (report.rows_cut > 0) == (words > 1)
    assert report.credits == str(datasets.to_credits(PRICES.training_ucr("small", report.trained_tokens)))
    assert report.price_version == PRICES.version


def test_a_cut_row_fills_its_shares(base: BaseModel, tiny_model: Path) -> None:
    long = pa.table({"prompt": ["word " * 400], "completion": ["word " * 400]})
    report = judged(split(long, None, 0), base, tiny_model, max_epochs=1)
    assert base.completion_tokens < report.longest_row <= base.prompt_tokens + base.completion_tokens
    assert report.completion_tokens == base.completion_tokens


@pytest.mark.parametrize(("num_rows", "max_epochs"), [(100, 1), (50, 2), (33, 3), (10, 10)])
def test_the_row_limit_is_for_all_epochs(base: BaseModel, tiny_model: Path, num_rows: int, max_epochs: int) -> None:
    assert judged(split(table(num_rows), None, 0), base, tiny_model, max_epochs).max_epochs == max_epochs
    with pytest.raises(BadDataset, match=f"{num_rows + 1} rows are too many: tiny takes 100 rows / {max_epochs}"):
        judged(split(table(num_rows + 1), None, 0), base, tiny_model, max_epochs)


def test_validation_rows_count_towards_the_limit(base: BaseModel, tiny_model: Path) -> None:
    assert judged(split(table(90), table(10), 0), base, tiny_model, 1).validation_rows == 10
    with pytest.raises(BadDataset, match="101 rows"):
        judged(split(table(90), table(11), 0), base, tiny_model, 1)


def test_a_price_class_that_is_not_there(base: BaseModel, tiny_model: Path) -> None:
    with pytest.raises(InvalidInput, match="no class 'gone'"):
        judged(split(table(2), None, 0), base.model_copy(update={"price_class": "gone"}), tiny_model)


def test_a_snapshot_is_the_data_with_its_hashes(tmp_path: Path) -> None:
    parted = split(table(25), None, 0)
    hashes = datasets.freeze(parted, Storage(tmp_path), "ft_1")
    folder = tmp_path / "jobs" / "ft_1"
    assert sorted(file.name for file in folder.iterdir()) == ["train.parquet", "validation.parquet"]
    assert pq.read_table(folder / "train.parquet") == parted.training
    assert pq.read_table(folder / "validation.parquet") == parted.validation
    expected = {f"{name}_sha256": file_sha256(folder / f"{name}.parquet") for name in ("train", "validation")}
    assert hashes == expected
    assert datasets.freeze(parted, Storage(tmp_path), "ft_2") == expected
