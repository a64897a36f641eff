"""How long a run is, what it costs, and how many rows it may have: from lengths alone, as the trainer plans it."""

from luthier.errors import BadDataset, InvalidInput
from luthier.platform.base_models import BaseModel
from luthier.platform.frozen import Frozen
from luthier.platform.options import Duration, Unit
from luthier.platform.plan import Rows, auto_batch, plan
from luthier.platform.prices import to_credits
from luthier.platform.recipe import Terms, batch_of, tokens_of_budget


class Estimate(Frozen):
    """The part of the data report that says what will be trained."""

    duration: str
    epochs: int
    steps: int | None
    trained_tokens: int
    price_version: str
    credits: str
    seconds: tuple[int, int] | None


def estimate(lengths: Rows, num_rows: int, terms: Terms) -> Estimate:
    """For examples of these lengths, from so many rows of training and validation data."""
    options, base, prices = terms.options, terms.base, terms.prices
    batch, budget = batch_of(options, terms.how), tokens_of_budget(options, base, prices)
    if batch is None and options.duration.unit is Unit.BATCHES:
        raise InvalidInput("Option training_duration in batches needs a batch_size: auto is measured in the run.")
    check_num_rows(num_rows, _least_epochs(lengths, options.duration, budget), base)
    reckoned = batch or auto_batch(int(lengths.sum()))
    steps = plan(lengths, reckoned, options.duration, options.seed, budget)
    if not steps:
        raise InvalidInput(f"Option budget_credits = {options.budget_credits}: it does not pay for one optimizer step.")
    check_num_rows(num_rows, steps[-1].epoch, base)
    trained_tokens = sum(int(lengths[step.rows].sum()) for step in steps)
    return Estimate(
        duration=f"{options.duration.num}{options.duration.unit}",
        epochs=steps[-1].epoch,
        steps=len(steps) if batch else None,
        trained_tokens=trained_tokens,
        price_version=prices.version,
        credits=str(to_credits(prices.training_ucr(base.price_class, trained_tokens))),
        seconds=_seconds(trained_tokens, terms),
    )


def check_num_rows(num_rows: int, epochs: int, base: BaseModel) -> None:
    """Snowflake's limit: rows of both sets times epochs."""
    limit = base.rows_per_epoch // epochs
    if num_rows > limit:
        raise BadDataset(
            f"{num_rows} rows are too many: {base.name} takes {base.rows_per_epoch} rows / {epochs} epochs "
            f"= {limit}. Select fewer rows, or train for fewer epochs."
        )


def _least_epochs(lengths: Rows, duration: Duration, budget: int | None) -> int:
    """Epochs that are surely begun: keeps a plan of absurd length from being made."""
    total = int(lengths.sum())
    num = {Unit.EPOCHS: duration.num, Unit.BATCHES: duration.num // len(lengths), Unit.TOKENS: duration.num // total}
    paid = num[duration.unit] if budget is None else min(num[duration.unit], budget // total)
    return max(1, paid)


def _seconds(trained_tokens: int, terms: Terms) -> tuple[int, int] | None:
    if not terms.speeds:
        return None
    return round(trained_tokens / max(terms.speeds)), round(trained_tokens / min(terms.speeds))
