"""The parts of one worker's run, set up from its configuration, or from the checkpoint it resumes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from luthier.errors import TrainingFailed
from luthier.platform.data.plan import Rows, Step, is_shortened, plan, tokens_of
from luthier.platform.data.prompts import Prompts, load_prompts
from luthier.platform.data.rendering import Example, num_tokens
from luthier.platform.jobs import EventType, shortened_words
from luthier.platform.run_files import RunFiles
from luthier.platform.tasks import TaskType
from luthier.train import checkpoint, sharding
from luthier.train.checkpoint import RunState
from luthier.train.config import FitConfig, StepRecord
from luthier.train.data import read_examples
from luthier.train.limits import PassLimit
from luthier.train.model import TunedModel
from luthier.train.objectives import CrossEntropy, Objective, Preference, log_probabilities
from luthier.train.packing import Batch, pack
from luthier.train.recompute import WORDS, Recompute
from luthier.train.team import Team


@dataclass(frozen=True)
class Worker:
    """One process of a run, and where it hands what it makes."""

    rank: int
    world_size: int
    device: torch.device
    resume_from: Path | None
    keep_checkpoint: Callable[[Path, int], None]
    """Takes a folder and its step; called by rank 0 from a thread, and again after an OSError. The folder is gone
    afterwards."""
    report: Callable[[StepRecord, int], None]
    """Takes each step of rank 0 and the number of all steps."""
    note: Callable[[EventType, str], None]
    """Takes an event, its type and its words; of other ranks than 0 a lack of memory alone counts."""


@dataclass(frozen=True)
class Data:
    """The examples of a file, and what the objective needs to know of them."""

    examples: list[Example]
    lengths: Rows
    reference: Tensor | None
    """[examples, 2]: log-probabilities before any training."""

    def share(self, rows: Sequence[int], worker: Worker) -> Batch:
        """One worker's share of some rows; it may be empty."""
        mine = list(rows[worker.rank :: worker.world_size])
        return pack([self.examples[row] for row in mine], mine)


class Run:
    """The order matters: a reference is taken before a checkpoint is."""

    def __init__(self, config: FitConfig, worker: Worker) -> None:
        self.config, self.worker = config, worker
        is_sharded = sharding.chosen(config, worker.device, worker.world_size)
        self.team = Team(worker.rank, worker.world_size, worker.device, is_sharded)
        self.prompts: Prompts = load_prompts(config.base_dir)
        self.model = TunedModel.load(config, worker.device, self.team)
        worker.note(EventType.MODEL_INITIALIZED, self._words())
        is_pairs = config.rendering.task_type is TaskType.DPO
        self.objective: Objective = Preference(config.dpo_beta) if is_pairs else CrossEntropy()
        self.folder = config.storage_path / config.job_id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files = files = RunFiles(self.folder)
        recompute = Recompute(self.model, config.activation_checkpointing, files.recompute)
        self.limit = PassLimit(config.max_pass_tokens, files.pass_tokens, self.team, worker.note, recompute)
        self.training = self._data(config.train_file)
        self.validation = self._data(config.validation_file) if config.validation_file else None
        tokens = int(self.training.lengths.sum())
        worker.note(EventType.DATA_VALIDATED, f"{len(self.training.examples)} examples, {tokens} tokens an epoch")
        recompute.prepare(self._largest_pass(), self.team)
        if recompute.is_on:
            worker.note(EventType.MODEL_INITIALIZED, WORDS)
        self.optimizer = torch.optim.AdamW(
            self.model.trainable(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        resumed = worker.resume_from
        self.state = checkpoint.load(resumed, self.model, self.optimizer) if resumed else RunState()
        self.steps = self._plan()

    def _words(self) -> str:
        shared = f", shared by {self.team.world_size} workers" if self.team.mesh else ""
        return f"{sum(p.numel() for p in self.model.trainable()):,} weights to train{shared}"

    def _data(self, path: Path) -> Data:
        examples = read_examples(path, self.prompts, self.config.rendering)
        lengths = np.array([num_tokens(example) for example in examples], np.int64)
        data = Data(examples, lengths, None)
        if not self.objective.needs_reference:
            return data
        return Data(examples, lengths, self._reference(data))

    def _reference(self, data: Data) -> Tensor:
        """Each worker computes its share."""

        def scored(parts: list[Batch]) -> Tensor:
            found = torch.zeros(len(data.examples), 2)
            for part in parts:
                found[part.examples[::2]] = log_probabilities(self.model, part).view(-1, 2).cpu()
            return found

        batch = data.share(range(len(data.examples)), self.worker)
        self.model.module.eval()
        with torch.no_grad():
            found = self.team.together(lambda: self.limit.passes(batch, scored))
        self.model.module.train()
        return self.team.sum(found)

    def _largest_pass(self) -> int:
        """Tokens that must fit: a row's; where a lack of memory ends the process, those of a whole pass."""
        longest, batch, size = int(self.training.lengths.max()), self.config.batch, self.team.world_size
        if self.team.mesh is None:
            return longest
        tokens = (batch.tokens or longest * (batch.rows or 1)) if batch else self.limit.max_tokens * size
        return max(longest, min(self.limit.max_tokens, tokens // size))

    def _plan(self) -> list[Step]:
        config, data, state = self.config, self.training, self.state
        state.batch = config.batch or state.batch
        if state.batch is None:
            state.batch = self.limit.batch_size(self.model, data.examples, data.lengths)
        asked = (data.lengths, state.batch, config.duration, config.seed)
        steps = plan(*asked, config.max_trained_tokens)
        if not steps:
            raise TrainingFailed("The budget does not pay for one optimizer step. Raise budget_credits.")
        if is_shortened(steps, *asked):
            self.worker.note(EventType.SHORTENED, shortened_words(tokens_of(steps, data.lengths)))
        return steps
