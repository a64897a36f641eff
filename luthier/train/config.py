"""The nouns of a training run: what it is asked (FitConfig) and what it gives (StepRecord, FitResult).

Light on purpose: whoever starts or watches a run imports no torch for it.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from luthier.platform.frozen import Frozen


class LoraSettings(Frozen):
    rank: int = Field(default=16, ge=1, le=256)
    """LoRA rank. The serving engine must have room for it."""
    alpha: int = Field(default=32, ge=1)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Above 0 training takes PEFT's own, slower forward."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Last names of the linear modules that get an adapter (q_proj, ...)."""


class FitConfig(Frozen):
    """One training run. Two calls with one job_id and storage_path are one run: the second resumes the first."""

    job_id: str
    base_dir: Path
    train_file: Path
    """Parquet with text columns prompt and completion."""
    validation_file: Path | None = None
    storage_path: Path
    num_workers: int = Field(default=1, ge=1)
    use_gpu: bool = False
    num_cpus: float = Field(default=1.0, gt=0)
    """CPUs that Ray sets aside for each worker."""
    threads: int = Field(default=2, ge=1)
    """Threads that each worker computes with; may be more than num_cpus."""
    max_epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=8, ge=1)
    """Rows of one optimizer step, over all workers."""
    learning_rate: float = Field(default=5e-4, gt=0)
    warmup_share: float = Field(default=0.03, ge=0.0, le=1.0)
    """Share of all steps in which the learning rate rises; after it the rate falls to 0 in a straight line."""
    seed: int = 0
    lora: LoraSettings = LoraSettings()
    max_prompt_tokens: int = Field(default=4096, ge=1)
    max_completion_tokens: int = Field(default=4096, ge=1)
    max_pass_tokens: int = Field(default=8192, ge=1)
    """A step with more tokens runs in several passes; their gradients are summed."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the frozen weights and the computation; auto is bfloat16 where the device is fast at it. LoRA is float32."""
    checkpoint_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints; the end of an epoch always has one."""
    max_failures: int = Field(default=3, ge=0)
    """Lost or crashed workers that a run survives; a LuthierError ends it at once."""


class StepRecord(Frozen):
    """One optimizer step, over all workers."""

    step: int
    """1 for the first step of the run."""
    epoch: int
    """1 for the first epoch."""
    training_loss: float
    """Mean cross-entropy in nats over the labelled tokens of this step."""
    validation_loss: float | None = None
    """The same over the validation rows; on the last step of an epoch only."""
    num_tokens: int
    """Prompt and completion tokens that went through the model."""


class FitResult(Frozen):
    checkpoint_dir: Path
    """Holds adapter/ in PEFT's format."""
    history: tuple[StepRecord, ...]
    trained_tokens: int
    training_loss: float
    """Mean over the steps of the last epoch."""
    validation_loss: float | None
