"""Nouns with defaults: a test shows only what matters to it."""

from pathlib import Path
from typing import Any

from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller, hash_key
from luthier.platform.jobs import FinishedModel, Job, Progress
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.models import ModelVersion
from luthier.platform.options import FinetuneOptions
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import Selection, records_of
from luthier.platform.settings import Settings
from luthier.platform.weights.artifacts import content_of, place

KEY = "lt_test_key"
ADMIN = Caller(account="main", user=ADMIN_USER, role=ADMIN_ROLE)
BASE_MODEL = """
name = "tiny"
hf = "tests/tiny"
revision = "0"
licence = "none"
description = "A random model for tests."
price_class = "small"
context_window = 512
prompt_tokens = 384
completion_tokens = 128
rows_per_epoch = 100
max_rank = 16

[source]
kind = "path"
path = "{path}"

[engine]
max_model_len = 512
"""


def make_settings(home: Path, base_dir: Path, **given: Any) -> Settings:
    """A home with one base model, `tiny`."""
    folder = home / "base_models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text(BASE_MODEL.format(path=base_dir))
    return Settings(home=home, cache=home / "cache", serve_base_models=("tiny",), **given)


def add_admin(registry: Registry, key: str = KEY) -> None:
    registry.access.add_admin_key(ADMIN.account, hash_key(key), key[:6])


def make_job(job_id: str = "ft_1", model: str = "LUTHIER.PUBLIC.TUNED", **given: Any) -> Job:
    fields: dict[str, Any] = {
        "id": job_id,
        "account": ADMIN.account,
        "owner": ADMIN.user,
        "role": ADMIN.role,
        "model": model,
        "base_model": "tiny",
        "training_data": "SELECT 1",
        "validation_data": "",
        "options": FinetuneOptions(),
        "report": {"rows": 2, "trained_tokens": 60},
        "created_on": 1_000,
    }
    return Job(**{**fields, **given})


def make_progress(step: int = 1, total_steps: int = 4, trained_tokens: int = 10, **given: Any) -> Progress:
    fields = {"step": step, "total_steps": total_steps, "trained_tokens": trained_tokens}
    return Progress(**{**fields, "epoch": 1, "training_loss": 2.0, **given})


def make_finished(path: Path | str = "adapter", **given: Any) -> FinishedModel:
    fields: dict[str, Any] = {
        "path": str(path),
        "sha256": "ab" * 32,
        "rank": 8,
        "trained_tokens": 60,
        "training_loss": 0.5,
        "validation_loss": 0.75,
    }
    return FinishedModel(**{**fields, **given})


def make_record(source_id: str = "req_1", **given: Any) -> UsageRecord:
    fields: dict[str, Any] = {
        "kind": UsageKind.COMPLETION,
        "source_id": source_id,
        "account": ADMIN.account,
        "user": ADMIN.user,
        "role": ADMIN.role,
        "function": "COMPLETE",
        "base_model": "tiny",
        "model": "tiny",
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "price_version": "1",
        "amount_ucr": 1,
        "time": 1_000,
    }
    return UsageRecord(**{**fields, **given})


def ledger_of(registry: Registry, kind: UsageKind = UsageKind.COMPLETION, caller: Caller = ADMIN) -> list[UsageRecord]:
    """What the ledger has of that kind, as the caller sees it, in the order in which it came."""
    return list(records_of(registry.usage, caller, Selection(kind=kind)))


def make_version(number: int, storage: Path, weights: str) -> ModelVersion:
    """With a folder in storage that holds these weights, whatever they are."""
    part = storage.parent / f"part-{number}"
    part.mkdir(parents=True)
    (part / "weights").write_text(weights)
    path = place(part, content_of(part), {}, storage)
    return ModelVersion(
        number=number,
        model=f"M{number}",
        version=1,
        job_id="ft_1",
        base_model="tiny",
        path=str(path),
        sha256=path.name,
        rank=8,
        owner=ADMIN.user,
        created_on=1,
    )
