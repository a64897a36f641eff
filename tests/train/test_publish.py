"""A checkpoint becomes a folder named by its content."""

import csv
import json
from pathlib import Path

import pytest

from luthier.platform.base_models import BaseModel, load_catalog
from luthier.platform.jobs import Job
from luthier.platform.options import Method
from luthier.platform.run_files import MODEL
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage, file_sha256
from luthier.platform.weights.artifacts import MANIFEST
from luthier.platform.weights.fingerprint import FINGERPRINT
from luthier.train.config import FitConfig, FitResult, StepRecord
from luthier.train.publish import ANSWERS, RESULTS, publish
from tests.factories import make_job

Parts = tuple[Job, BaseModel, FitConfig]
HISTORY = (
    StepRecord(step=1, epoch=1, training_loss=2.0, num_tokens=10),
    StepRecord(step=2, epoch=1, training_loss=1.0, validation_loss=1.5, num_tokens=10),
)


@pytest.fixture
def fit(tmp_path: Path) -> FitResult:
    adapter = tmp_path / "checkpoint" / MODEL
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text("{}")
    return FitResult(
        checkpoint_dir=adapter.parent, history=HISTORY, trained_tokens=20, training_loss=1.5, validation_loss=1.5
    )


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    config = FitConfig(job_id="ft_1", base_dir=tmp_path, train_file=tmp_path / "train", storage_path=tmp_path)
    base = load_catalog(Settings(home=tmp_path)).get("smollm2-135m")
    report = {"rows": 2, "validation_rows": 1, "train_sha256": "a", "validation_sha256": "b", "trained_tokens": 20}
    return make_job(base_model=base.name, report=report), base, config


def test_results_manifest_and_hashes(fit: FitResult, parts: Parts, tmp_path: Path) -> None:
    made = publish(*parts, fit, Storage(tmp_path))
    folder = Path(made.path)
    assert folder.name == made.sha256
    rows = list(csv.DictReader((folder / RESULTS).open()))
    assert [row["validation_loss"] for row in rows] == ["", "1.5"]
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["trained_tokens"] == 20
    assert manifest["base_model"]["revision"] == parts[1].revision
    assert manifest["sha256"] == {
        file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST
    }


def test_the_same_checkpoint_twice_is_one_folder(fit: FitResult, parts: Parts, tmp_path: Path) -> None:
    first, second = (publish(*parts, fit, Storage(tmp_path)) for _ in range(2))
    assert first == second
    assert [each.name for each in (tmp_path / "adapters").iterdir()] == [first.sha256]


def test_other_weights_get_another_name(fit: FitResult, parts: Parts, tmp_path: Path) -> None:
    first = publish(*parts, fit, Storage(tmp_path))
    (fit.checkpoint_dir / MODEL / "adapter_model.safetensors").write_bytes(b"other weights")
    assert publish(*parts, fit, Storage(tmp_path)).sha256 != first.sha256


def test_answers_stand_beside_the_weights(fit: FitResult, parts: Parts, tmp_path: Path) -> None:
    job, base, config = parts
    last = HISTORY[1].model_copy(update={"answers": ("red", "blue")})
    fit = fit.model_copy(update={"history": (HISTORY[0], last)})
    made = publish(job, base, config.model_copy(update={"eval_prompts": ("a?", "b?")}), fit, Storage(tmp_path))
    lines = [json.loads(line) for line in (Path(made.path) / ANSWERS).read_text().splitlines()]
    assert lines == [{"step": 2, "prompt": "a?", "answer": "red"}, {"step": 2, "prompt": "b?", "answer": "blue"}]


def test_the_fingerprint_is_part_of_the_content(fit: FitResult, parts: Parts, tmp_path: Path) -> None:
    plain = publish(*parts, fit, Storage(tmp_path))
    (tmp_path / "fingerprint").write_text("{}")
    made = publish(*parts, fit.model_copy(update={"fingerprint": tmp_path / "fingerprint"}), Storage(tmp_path))
    assert made.sha256 != plain.sha256
    assert (Path(made.path) / FINGERPRINT).read_text() == "{}"


def test_full_weights_take_the_tokenizer_along(fit: FitResult, parts: Parts, tmp_path: Path) -> None:
    job, base, config = parts
    (tmp_path / "tokenizer.json").write_text("{}")
    made = publish(job, base, config.model_copy(update={"method": Method.FULL}), fit, Storage(tmp_path))
    assert (made.rank, made.method) == (0, Method.FULL)
    assert (Path(made.path) / "tokenizer.json").is_file()
    assert json.loads((Path(made.path) / MANIFEST).read_text())["lora"] is None


def test_a_full_disk_leaves_nothing(
    fit: FitResult, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("luthier.platform.weights.artifacts.file_sha256", fail)
    with pytest.raises(OSError, match="No space left"):
        publish(*parts, fit, Storage(tmp_path))
    assert list((tmp_path / "adapters").iterdir()) == []
