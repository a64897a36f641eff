"""How long a run is, what it costs, and how many rows it may have: from lengths alone, as the trainer plans it."""

from luthier.errors import BadDataset, InvalidInput, PaymentRequired
from luthier.platform.base_models import BaseModel
from luthier.platform.data.plan import Rows, auto_batch, is_shortened, plan, tokens_of
from luthier.platform.data.recipe import Terms, batch_of, tokens_of_budget
from luthier.platform.frozen import Frozen
from luthier.platform.options import Duration, FinetuneOptions, Unit
from luthier.platform.prices import to_credits, to_ucr


class Estimate(Frozen):
    """The part of the data report that says what will be trained."""

    duration: str
    epochs: int
    steps: int | None
    trained_tokens: int
    is_shortened: bool
    price_version: str
    training_price: str
    credits: str
    seconds: tuple[int, int] | None


def estimate(lengths: Rows, num_rows: int, terms: Terms) -> Estimate:
    """For examples of these lengths, from so many rows of training and validation data."""
    options, base, prices = terms.options, terms.base, terms.prices
    batch = batch_of(options, terms.how)
    budget = tokens_of_budget(options, base, prices) if options.on_budget == "shorten" else None
    if batch is None and options.duration.unit is Unit.BATCHES:
        raise InvalidInput("Option training_duration in batches needs a batch_size: auto is measured in the run.")
    check_num_rows(num_rows, _least_epochs(lengths, options.duration, budget), base)
    reckoned = batch or auto_batch(int(lengths.sum()))
    steps = plan(lengths, reckoned, options.duration, options.seed, budget)
    if not steps:
        raise PaymentRequired(
            f"Option budget_credits = {options.budget_credits}: it does not pay for one optimizer step."
        )
    check_num_rows(num_rows, steps[-1].epoch, base)
    trained_tokens = tokens_of(steps, lengths)
    return Estimate(
        duration=f"{options.duration.num}{options.duration.unit}",
        epochs=steps[-1].epoch,
        steps=len(steps) if batch else None,
        trained_tokens=trained_tokens,
        is_shortened=is_shortened(steps, lengths, reckoned, options.duration, options.seed),
        price_version=prices.version,
        training_price=str(to_credits(prices.training_price(base.price_class))),
        credits=str(to_credits(prices.training_ucr(base.price_class, trained_tokens))),
        seconds=_seconds(trained_tokens, terms),
    )


def is_over_budget(options: FinetuneOptions, credits: str) -> bool:
    """Whether a price is more than the job may cost."""
    return options.budget_credits is not None and to_ucr(credits) > to_ucr(options.budget_credits)


def check_budget(options: FinetuneOptions, credits: str) -> None:
    if is_over_budget(options, credits):
        raise PaymentRequired(
            f"The job's budget (option budget_credits) is {options.budget_credits} credits, and this would cost "
            f"{credits}. Raise it, train for less (max_epochs, fewer rows), or let the run end where the budget does "
            f"(option on_budget = shorten)."
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
