"""One training run in a process of its own, by Luthier or by TRL: the same model, rows, order, masks and optimizer.

python -m benchmarks.train_worker TASK RESULT: two JSON files, a Task and a Result.
"""

import sys
import tempfile
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from luthier.platform.data.rendering import Rendering
from luthier.platform.frozen import Frozen
from luthier.platform.options import BatchSize, Duration, Unit

RENDERING = Rendering()
RANK, LEARNING_RATE, SEED = 16, 5e-4, 0
MODES: dict[str, dict[str, Any]] = {
    "default": {"gradient_checkpointing": True},
    "padded": {},
    "padding_free": {"padding_free": True},
    "length groups": {"train_sampling_strategy": "group_by_length"},
    "packing": {"packing": True, "per_device_train_batch_size": 1},
}
"""Of TRL, all but the first without gradient checkpointing."""
PRECISIONS = ("fp32", "bf16 autocast", "bf16 weights")
OWN_BATCHES = ("length groups", "packing")
"""Modes that put the same rows into other batches."""


class Task(Frozen):
    by: str
    """Luthier or TRL."""
    mode: str
    """Of TRL."""
    precision: str
    """One of PRECISIONS; Luthier has no autocast."""
    base_dir: Path
    rows_file: Path
    """Parquet of prompt and completion, one epoch."""
    steps: int
    batch_rows: int
    device: Literal["cpu", "cuda"]
    threads: int

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.by, self.mode, self.precision)))

    @property
    def has_same_batches(self) -> bool:
        return self.mode not in OWN_BATCHES

    @property
    def counts_cpu(self) -> bool:
        """Whether seconds are the CPU's and not the wall's: with one thread other work does not change them."""
        return self.device == "cpu" and self.threads == 1


class Result(Frozen):
    """A list has one value a step."""

    seconds: tuple[float, ...]
    """Clock at the end of the step."""
    tokens: tuple[int, ...]
    """Without pads. TRL may have collated a batch more than it trained."""
    pads: tuple[int, ...]
    losses: tuple[float, ...]
    """Mean of the step's learned tokens."""
    peak_mib: int
    """Of the process, or of its tensors on the GPU."""
    kernels: str = ""
    """Of TRL on a GPU: what it found installed."""

    @property
    def speed(self) -> float:
        """Tokens a second from step 2 to the end: the first one warms up."""
        return sum(self.tokens[1 : len(self.seconds)]) / (self.seconds[-1] - self.seconds[0])


Log = dict[str, Any]
"""Values of Result by their names."""


def _train_luthier(task: Task, log: Log) -> None:
    import torch

    from luthier.platform.weights.lora import LoraSettings
    from luthier.train.config import FitConfig, StepRecord
    from luthier.train.loop import train
    from luthier.train.run import Worker

    def report(record: StepRecord, _num_steps: int) -> None:
        _stamp(task, log)
        log["tokens"].append(record.num_tokens)
        log["pads"].append(0)
        log["losses"].append(record.training_loss)

    with tempfile.TemporaryDirectory() as scratch:
        config = FitConfig(
            job_id="benchmark",
            base_dir=task.base_dir,
            train_file=task.rows_file,
            storage_path=Path(scratch),
            threads=task.threads,
            rendering=RENDERING,
            lora=LoraSettings(rank=RANK, alpha=2 * RANK),
            duration=Duration(num=task.steps, unit=Unit.BATCHES),
            batch=BatchSize(rows=task.batch_rows),
            learning_rate=LEARNING_RATE,
            schedule="constant",
            warmup_share=0.0,
            seed=SEED,
            dtype="float32" if task.precision == "fp32" else "bfloat16",
            checkpoint_steps=task.steps,
        )
        here = Worker(
            rank=0,
            world_size=1,
            device=torch.device(task.device),
            resume_from=None,
            keep_checkpoint=lambda _folder, _step: None,
            report=report,
            note=lambda _event, _words: None,
        )
        train(config, here)


def _train_trl(task: Task, log: Log) -> None:
    import torch
    from datasets import Dataset  # TRL and its parts lie on a path of their own
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Stamps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            _stamp(task, log)

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            log["losses"] += [logs["loss"]] if "loss" in logs else []

    torch.set_num_threads(task.threads)
    rows = _rows_in_order(task)
    dtype = torch.bfloat16 if "weights" in task.precision else torch.float32
    attention = _attention()
    if task.device == "cuda":
        log["kernels"] = f"{attention} and Liger" if _has_liger() else attention
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            str(task.base_dir), dtype=dtype, attn_implementation=attention, local_files_only=True
        ),
        args=SFTConfig(**_trl_settings(task, [len(row["input_ids"]) for row in rows])),
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(str(task.base_dir)),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Stamps()],
    )
    collate = trainer.data_collator

    def counting(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = collate(examples)
        slots = batch["input_ids"].numel()
        log["tokens"].append(int(batch["attention_mask"].sum()) if "attention_mask" in batch else slots)
        log["pads"].append(slots - log["tokens"][-1])
        return batch

    trainer.data_collator = counting
    trainer.train()


def _trl_settings(task: Task, lengths: list[int]) -> dict[str, Any]:
    arguments = {
        "per_device_train_batch_size": task.batch_rows,
        "gradient_checkpointing": False,
        # A pack holds what a step of the others does, and no less than the longest row, for packing cuts.
        "max_length": max(-(-sum(lengths) // task.steps), *lengths) if task.mode == "packing" else None,
        "train_sampling_strategy": "sequential",
        **MODES[task.mode],
    }
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": task.device == "cpu",
        "use_liger_kernel": task.device == "cuda" and _has_liger(),
        "bf16": "autocast" in task.precision,
        "num_train_epochs": 1,
        "optim": "adamw_torch_fused",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "seed": SEED,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **arguments,
    }


def _attention() -> str:
    """The fastest that is installed."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def _has_liger() -> bool:
    return find_spec("liger_kernel") is not None


def _rows_in_order(task: Task) -> list[dict[str, list[int]]]:
    """The rows as Luthier's plan takes them, step by step, in tokens and with the labels that Luthier learns."""
    import numpy as np

    from luthier.platform.data.plan import plan
    from luthier.platform.data.prompts import load_prompts
    from luthier.platform.data.rendering import num_tokens
    from luthier.train.data import read_examples
    from luthier.train.packing import pack

    examples = read_examples(task.rows_file, load_prompts(task.base_dir), RENDERING)
    lengths = np.array([num_tokens(example) for example in examples], np.int64)
    duration = Duration(num=task.steps, unit=Unit.BATCHES)
    steps = plan(lengths, BatchSize(rows=task.batch_rows), duration, SEED)
    documents = [pack([examples[row]]) for step in steps for row in step.rows]
    return [{"input_ids": each.input_ids.tolist(), "labels": each.labels.tolist()} for each in documents]


def _stamp(task: Task, log: Log) -> None:
    if task.device == "cuda":
        import torch

        torch.cuda.synchronize()
    log["seconds"].append(time.process_time() if task.counts_cpu else time.perf_counter())


def _peak_mib(task: Task) -> int:
    if task.device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated()) >> 20
    # getrusage would count the parent's
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def measure(task: Task) -> Result:
    """Runs it in this process."""
    log: Log = defaultdict(list)
    (_train_luthier if task.by == "Luthier" else _train_trl)(task, log)
    return Result.model_validate({**log, "peak_mib": _peak_mib(task)})


if __name__ == "__main__":
    asked, given = map(Path, sys.argv[1:])
    given.write_text(measure(Task.model_validate_json(asked.read_text())).model_dump_json())
