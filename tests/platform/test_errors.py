"""The family: every class by its code, all of them through pickle."""

import pickle

import pytest

from luthier.errors import ContextTooLong, LuthierError, Overloaded, all_errors


def test_codes_name_one_class_each() -> None:
    errors = all_errors()
    assert all(cls.code == code for code, cls in errors.items())
    assert errors["internal_error"] is LuthierError
    assert {"not_found", "conflict", "invalid_training_data", "context_length_exceeded"} <= set(errors)


@pytest.mark.parametrize("cls", all_errors().values(), ids=lambda cls: cls.code)
def test_every_error_pickles(cls: type[LuthierError]) -> None:
    again = pickle.loads(pickle.dumps(cls("what, where, what to do", param="seed")))
    assert type(again) is cls
    assert (again.message, again.param) == ("what, where, what to do", "seed")


def test_what_they_carry_travels_too() -> None:
    again = pickle.loads(pickle.dumps(Overloaded("busy", retry_after=7)))
    assert (again.message, again.retry_after) == ("busy", 7)

    longer = pickle.loads(pickle.dumps(ContextTooLong("too long", limit=512, param="prompt")))
    assert (longer.limit, longer.param) == (512, "prompt")


@pytest.mark.parametrize("cls", all_errors().values(), ids=lambda cls: cls.code)
def test_statuses_are_of_errors(cls: type[LuthierError]) -> None:
    assert 400 <= cls.http < 600
    assert 0 < cls.exit < 256


def test_an_error_without_words_says_its_code() -> None:
    assert LuthierError().message == "internal_error"
