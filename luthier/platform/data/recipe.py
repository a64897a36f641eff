"""What a job's options come to on its base model: how rows become tokens, what a batch is, what a budget pays for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from luthier.errors import InvalidInput
from luthier.platform.base_models import BaseModel
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Rendering
from luthier.platform.options import BatchSize, FinetuneOptions
from luthier.platform.prices import PriceList, to_ucr
from luthier.platform.tasks import TaskType
from luthier.platform.weights.lora import LoraSettings


@dataclass(frozen=True)
class Terms:
    """What data is judged by."""

    base: BaseModel
    options: FinetuneOptions
    prompts: Prompts
    prices: PriceList
    speeds: Sequence[float] = ()
    """Tokens a second of runs like this one."""

    @cached_property
    def how(self) -> Rendering:
        return rendering_of(self.base, self.options)


def rendering_of(base: BaseModel, options: FinetuneOptions) -> Rendering:
    """How rows become tokens: the base model's shares of the context, scaled to the length asked for."""
    if options.context_length is not None and options.context_length > base.max_context_length:
        raise InvalidInput(
            f"Option context_length = {options.context_length}: {base.name} reads {base.max_context_length} tokens."
        )
    shares = base.prompt_tokens + base.completion_tokens
    length = options.context_length or shares
    completion = min(length - 1, max(2, length * base.completion_tokens // shares))
    return Rendering(
        task_type=options.task_type,
        train_on=options.train_on,
        max_prompt=length - completion,
        max_completion=completion,
    )


def lora_of(base: BaseModel, options: FinetuneOptions) -> LoraSettings:
    """The adapter that is asked for; method full has none."""
    return LoraSettings(
        rank=options.lora_rank,
        alpha=options.alpha,
        dropout=options.lora_dropout,
        targets=options.lora_targets or base.targets,
    )


def batch_of(options: FinetuneOptions, how: Rendering) -> BatchSize | None:
    """The batch of one step; text for pre-training is counted in contexts, packed full. None is automatic."""
    batch = options.batch
    if batch and batch.rows and how.task_type is TaskType.CONTINUED_PRETRAIN:
        return BatchSize(tokens=batch.rows * how.max_tokens)
    return batch


def tokens_of_budget(options: FinetuneOptions, base: BaseModel, prices: PriceList) -> int | None:
    """The most tokens that the budget pays for."""
    if options.budget_credits is None:
        return None
    return prices.training_tokens(base.price_class, to_ucr(options.budget_credits))
