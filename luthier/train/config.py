"""The nouns of a training run: what it is asked (FitConfig) and what it gives (StepRecord, FitResult).

Light on purpose: whoever starts or watches a run imports no torch for it.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luthier.platform.data.rendering import Rendering
from luthier.platform.frozen import Frozen
from luthier.platform.options import BatchSize, Duration, Learning, Unit
from luthier.platform.weights.lora import LoraSettings


class FitConfig(Learning):
    """One training run. Two calls with one job_id and storage_path are one run: the second resumes the first."""

    job_id: str
    base_dir: Path
    train_file: Path
    """Parquet with the text columns of the task."""
    validation_file: Path | None = None
    storage_path: Path
    num_workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """Processes; least and most let the run go on with what the cluster has, from its checkpoint at each change."""
    use_gpu: bool = False
    gpu_share: float = Field(default=1.0, gt=0.5, le=1.0)
    """Of a GPU that each worker takes; the rest may be a small engine's."""
    num_cpus: float = Field(default=1.0, gt=0)
    """CPUs that Ray sets aside for each worker."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that each worker computes with; by default its share of the node's cores."""
    rendering: Rendering = Rendering()
    """Task type and limits: how rows become tokens."""
    lora: LoraSettings = LoraSettings()
    """Not used by method full."""
    continue_from: Path | None = None
    """Folder with the adapter, or for method full the weights, that the run begins with."""
    duration: Duration = Duration(num=3, unit=Unit.EPOCHS)
    max_trained_tokens: int | None = Field(default=None, ge=1)
    """The run ends before the step that would pass it."""
    batch: BatchSize | None = BatchSize(rows=8)
    """Of one optimizer step, over all workers; None measures what fits."""
    sharding: Literal["auto", "none", "full"] = "auto"
    """Whether the workers share one model or have one each; auto shares one that does not fit a worker's GPU."""
    max_pass_tokens: int = Field(default=8192, ge=1)
    """A step with more tokens runs in several passes; their gradients are summed."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the frozen weights and the computation; auto is bfloat16 where the device is fast at it. What is trained is
    float32."""
    checkpoint_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints; the end of an epoch always has one."""
    max_failures: int = Field(default=3, ge=0)
    """Lost or crashed workers that a run survives; a LuthierError ends it at once."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if isinstance(self.num_workers, tuple) and self.num_workers[0] > self.num_workers[1]:
            raise ValueError(f"num_workers = {self.num_workers}: give the least first, then the most")
        return self


class StepRecord(Frozen):
    """One optimizer step, over all workers."""

    step: int
    """1 for the first step of the run."""
    epoch: int
    """1 for the first epoch."""
    training_loss: float
    """Mean cross-entropy in nats over the labelled tokens of this step; for DPO the mean loss of its pairs."""
    validation_loss: float | None = None
    """The same over the validation rows; on the last step of an epoch and of the run only."""
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    """Before clipping."""
    answers: tuple[str, ...] = ()
    """To the eval_prompts, at a checkpoint."""
    num_tokens: int
    """Prompt and completion tokens that went through the model."""
    evaluated_tokens: int = 0
    """Of validation rows, and of eval_prompts and their answers, behind this step."""


class FitResult(Frozen):
    checkpoint_dir: Path
    """Holds model/: an adapter in PEFT's format, or weights in Hugging Face's."""
    history: tuple[StepRecord, ...]
    trained_tokens: int
    evaluated_tokens: int = 0
    training_loss: float
    """Mean over the steps of the last epoch."""
    validation_loss: float | None
    fingerprint: Path | None = None
    """The file."""
