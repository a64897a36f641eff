"""Prices: credits per million tokens, versioned. Integers only: 1 credit = 1,000,000 micro-credits (ucr)."""

from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import lru_cache
from pathlib import Path

from pydantic import field_validator

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen, read_toml
from luthier.platform.settings import GIB

UCR_PER_CREDIT = 1_000_000
MOST_CREDITS = 10**12
ONE_UCR = Decimal("0.000001")
_EXACT = Context(prec=18, traps=[Inexact, InvalidOperation])
"""Refuses what it would have to round: an amount below MOST_CREDITS has 18 digits."""
TOKENS_PER_PRICE = 1_000_000
BYTE_MS_PER_PRICE = GIB * 30 * 86_400_000
"""A GiB for 30 days."""


class Price(Frozen):
    """Micro-credits per million tokens of each kind."""

    training: int
    prompt: int
    completion: int

    @field_validator("*", mode="before")
    @classmethod
    def _credits_to_ucr(cls, value: object) -> int:
        return _read(value)


class PriceList(Frozen):
    version: str
    storage: int = 0
    """Micro-credits for a GiB of adapters and weights, kept 30 days."""
    classes: dict[str, Price]

    @field_validator("storage", mode="before")
    @classmethod
    def _credits_to_ucr(cls, value: object) -> int:
        return _read(value)

    def training_price(self, price_class: str) -> int:
        """Micro-credits per million trained tokens."""
        return self._price(price_class).training

    def training_ucr(self, price_class: str, trained_tokens: int) -> int:
        return _amount(trained_tokens * self._price(price_class).training)

    def training_tokens(self, price_class: str, ucr: int) -> int:
        """The most tokens that may be trained for an amount."""
        price = self._price(price_class).training
        return ucr * TOKENS_PER_PRICE // price if price else 2**62

    def completion_ucr(self, price_class: str, prompt_tokens: int, completion_tokens: int) -> int:
        price = self._price(price_class)
        return _amount(prompt_tokens * price.prompt + completion_tokens * price.completion)

    def storage_ucr(self, byte_ms: int) -> int:
        return -(-byte_ms * self.storage // BYTE_MS_PER_PRICE)

    def _price(self, price_class: str) -> Price:
        if price_class not in self.classes:
            raise InvalidInput(
                f"prices.toml {self.version} has no class {price_class!r}: add it, or mend the base model."
            )
        return self.classes[price_class]


@lru_cache(maxsize=1)
def load_prices(file: Path) -> PriceList:
    """The prices of a file; a bad one is refused with its path and the faulty key.

    They are read once: nobody changes them while a process runs.
    """
    return read_toml(file, PriceList)


def to_credits(ucr: int) -> Decimal:
    """Micro-credits as exact decimal credits, for display."""
    return Decimal(ucr) / UCR_PER_CREDIT


def to_ucr(credits: str) -> int:
    """Decimal credits as micro-credits; ValueError when they are none."""
    try:
        amount = Decimal(credits)
    except InvalidOperation as error:
        raise ValueError(f"{credits!r} is not a decimal number") from error
    # Before it is an integer, which 1E+999999 is in minutes.
    if not amount.is_finite() or not 0 <= amount < MOST_CREDITS:
        raise ValueError("an amount of credits is not negative, and less than a trillion")
    try:
        return int(amount.quantize(ONE_UCR, context=_EXACT).scaleb(6))
    except (Inexact, InvalidOperation) as error:
        raise ValueError("an amount of credits has at most six decimals") from error


def _read(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("write a price as a string of decimal credits, such as '0.10'")
    return to_ucr(value)


def _amount(ucr_tokens: int) -> int:
    """Rounded up to a whole micro-credit, once a record: work is never free and a sum of records is exact."""
    return -(-ucr_tokens // TOKENS_PER_PRICE)
