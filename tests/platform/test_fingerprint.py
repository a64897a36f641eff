"""What an engine may answer to be believed."""

import math

import pytest

from luthier.platform.weights.fingerprint import Fingerprint, Probe

TUNED, BASE = [(-0.1, -0.2, -0.3)], [(-4.1, -5.2, -6.3)]
TAKEN = Fingerprint(dtype="float32", probes=(Probe(ids=(1, 2, 3, 4), start=1, tuned=TUNED[0], base=BASE[0]),))
Scores = list[tuple[float, ...]]


def off(scores: Scores, by: float) -> Scores:
    return [tuple(score + by for score in each) for each in scores]


@pytest.mark.parametrize(
    ("tuned", "base"),
    [(TUNED, BASE), (off(TUNED, 0.019), BASE), (off(TUNED, -0.3), off(BASE, 0.05)), (TUNED, off(BASE, 0.09))],
)
def test_what_rounding_explains_is_believed(tuned: Scores, base: Scores) -> None:
    assert TAKEN.fault(tuned, base) is None


@pytest.mark.parametrize(
    ("tuned", "base", "fault"),
    [
        (BASE, BASE, "it answers like its base model, which its trainer measured 5 nats away"),
        (off(BASE, 0.01), BASE, "it answers like its base model"),
        (off(BASE, 1.0), BASE, "it answers 4 nats off what its trainer measured, 0.02 are allowed"),
        (off(TUNED, -0.03), BASE, "it answers 0.03 nats off"),
        (off(TUNED, -0.03), off(BASE, 1e-5), "it answers 0.03 nats off"),
        (off(TUNED, -0.6), off(BASE, 0.09), "it answers 0.6 nats off what its trainer measured, 0.45 are allowed"),
        (TUNED, off(BASE, -0.5), "another base model: that one is 0.5 nats off"),
        (off(TUNED, math.nan), BASE, "it answers nan nats off"),
        (TUNED, off(BASE, math.nan), "another base model"),
    ],
)
def test_what_it_does_not_is_refused(tuned: Scores, base: Scores, fault: str) -> None:
    assert fault in (TAKEN.fault(tuned, base) or "")


@pytest.mark.parametrize(
    ("tuned", "is_met"),
    [
        (TUNED, True),
        (off(TUNED, 0.019), True),
        (off(TUNED, 0.021), False),
        (BASE, False),
        (off(TUNED, math.nan), False),
    ],
)
def test_the_trainers_own_answers(tuned: Scores, is_met: bool) -> None:
    assert TAKEN.is_met(tuned) is is_met
    assert not TAKEN.is_met(off(TUNED, math.nan))


def test_of_a_faint_effect_a_tenth_may_be_off() -> None:
    faint = TAKEN.model_copy(update={"probes": (TAKEN.probes[0].model_copy(update={"base": off(TUNED, 0.1)[0]}),)})
    assert faint.is_met(off(TUNED, 0.009))
    assert not faint.is_met(off(TUNED, 0.011))


def test_an_adapter_that_learned_nothing_may_answer_like_its_base_model() -> None:
    faint = TAKEN.model_copy(update={"probes": (TAKEN.probes[0].model_copy(update={"base": TUNED[0]}),)})
    assert faint.fault(TUNED, TUNED) is None


def test_a_base_model_in_four_bits_is_rounded_more() -> None:
    assert TAKEN.model_copy(update={"dtype": "nf4"}).fault(TUNED, off(BASE, 1.0)) is None


REAL = TAKEN.model_copy(
    update={"dtype": "bfloat16", "probes": (TAKEN.probes[0].model_copy(update={"base": (-0.4, -0.5, -0.6)}),)}
)
"""An effect of 0.3 nats, as of SmolLM2-135M."""
PLAIN = [(-0.4, -0.5, -0.6)]


@pytest.mark.parametrize("rounding", [0.0, 0.037, 0.2])
@pytest.mark.parametrize(
    ("applied", "is_proved"), [(1.0, True), (0.68, False), (0.4, False), (0.09, False), (0.0, False)]
)
def test_what_a_small_effect_proves(rounding: float, applied: float, is_proved: bool) -> None:
    """However much rounding explains: an adapter that is applied by less than three quarters is never proved."""
    base = off(PLAIN, rounding)
    tuned = off(base, 0.3 * applied)
    assert (REAL.fault(tuned, base) is None and REAL.doubt(tuned, base) is None) is is_proved
    if applied < 0.1:
        assert "it answers like its base model" in (REAL.fault(tuned, base) or "")


def test_what_rounding_explains_of_a_small_effect_is_proved() -> None:
    base = off(PLAIN, 0.075)
    tuned = off(base, 0.3 * 0.8)
    assert REAL.fault(tuned, base) is None
    assert REAL.doubt(tuned, base) is None


def test_what_rounding_may_hide_is_doubted() -> None:
    base = off(PLAIN, 0.2)
    assert REAL.fault(TUNED, base) is None
    assert "of its effect of 0.3 nats 0.2 are not there" in (REAL.doubt(TUNED, base) or "")


def test_a_sibling_of_the_base_model_is_another() -> None:
    assert "another base model" in (REAL.fault(TUNED, off(PLAIN, 0.4)) or "")


OWN = Fingerprint(dtype="bfloat16", probes=(Probe(ids=(1, 2, 3, 4), start=1, tuned=TUNED[0], base=None),))


@pytest.mark.parametrize("by", [0.0, 0.2, -0.2])
def test_weights_of_their_own_are_compared_with_themselves(by: float) -> None:
    assert OWN.fault_of_own(off(TUNED, by)) is None


@pytest.mark.parametrize("by", [-0.3, 5.0, math.nan])
def test_and_others_are_refused(by: float) -> None:
    assert "off what its trainer measured, 0.25 are allowed" in (OWN.fault_of_own(off(TUNED, by)) or "")


def test_what_it_is_of() -> None:
    assert (TAKEN.is_of_adapter, OWN.is_of_adapter) == (True, False)
