"""Prices: decimals in, integers out, rounded up once a record."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import InvalidInput
from luthier.platform.prices import PriceList, load_prices, to_credits, to_ucr
from luthier.platform.settings import configs_dir

SHIPPED = load_prices(configs_dir() / "prices.toml")


def test_shipped_prices_are_whole_micro_credits() -> None:
    assert SHIPPED.classes["small"].training == 100_000
    assert SHIPPED.training_ucr("small", 1_000_000) == 100_000
    assert SHIPPED.completion_ucr("small", 1_000_000, 1_000_000) == 60_000


@pytest.mark.parametrize(("tokens", "ucr"), [(0, 0), (1, 1), (10, 1), (11, 2), (10_000_000, 1_000_000)])
def test_amounts_are_rounded_up(tokens: int, ucr: int) -> None:
    assert SHIPPED.training_ucr("small", tokens) == ucr


def test_a_completion_is_rounded_once() -> None:
    assert SHIPPED.completion_ucr("small", 1, 1) == 1


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_no_amount_is_below_its_price(prompt: int, completion: int) -> None:
    exact = Decimal(prompt) * 20_000 / 10**6 + Decimal(completion) * 40_000 / 10**6
    amount = SHIPPED.completion_ucr("small", prompt, completion)
    assert exact <= amount < exact + 1


FINE = ("999999999999.99999999999999999999999", "0.1" + "0" * 40 + "1", "1E-999999990", "1e-7")
HUGE = ("1e12", "1E+999999", "1e99999999999", "9" * 100_000)


@pytest.mark.parametrize("written", [*HUGE, *FINE, "-1e-999999", "-1", "inf", "nan", "sNaN", ""])
def test_what_is_no_amount(written: str) -> None:
    """An integer of 1E+999999 takes minutes, and nobody else is answered meanwhile."""
    with pytest.raises(ValueError, match=r"amount of credits|decimal number"):
        to_ucr(written)


def test_credits_are_exact() -> None:
    assert to_ucr("999999999999.999999") == to_ucr("999999999999.999999" + "0" * 40) == 10**18 - 1
    assert to_ucr("1E-6") == 1
    assert to_ucr("0e999999999") == to_ucr("0e-999999999") == 0
    assert to_credits(1) == Decimal("0.000001")
    assert str(to_credits(1_234_567)) == "1.234567"


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(InvalidInput, match="no class 'huge'"):
        SHIPPED.training_ucr("huge", 1)


@pytest.mark.parametrize("price", ["0.1", '"-1"', '"0.0000001"', '"NaN"', '"many"', '"Infinity"'])
def test_a_price_is_a_string_of_at_most_six_decimals(tmp_path: Path, price: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(f'version = "1"\n[classes.small]\ntraining = {price}\nprompt = "1"\ncompletion = "1"\n')
    with pytest.raises(InvalidInput, match=r"prices\.toml:3: classes\.small\.training"):
        load_prices(file)


def test_versions_stay_apart() -> None:
    dearer = PriceList.model_validate(
        {"version": "2", "classes": {"small": {"training": "0.2", "prompt": "0", "completion": "0"}}}
    )
    assert dearer.training_ucr("small", 10) == 2 * SHIPPED.training_ucr("small", 10)
