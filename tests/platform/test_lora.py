"""When a run may go on from an adapter, and which modules its targets are."""

from typing import Any

import pytest

from luthier.errors import InvalidInput
from luthier.platform.weights.lora import Adapter, LoraSettings, check_continues, target_names, targeted

LINEAR = {
    f"model.layers.{layer}.{name}": (8, 4) for layer in range(2) for name in ("self_attn.q_proj", "mlp.down_proj")
}
ASKED = LoraSettings(rank=4, alpha=8)


def made(**given: Any) -> Adapter:
    return Adapter(**{"rank": 4, "scale": 2.0, "modules": LINEAR, **given})


def test_targets_are_last_names() -> None:
    assert target_names("all-linear", LINEAR) == ["down_proj", "q_proj"]
    assert target_names(("q_proj",), LINEAR) == ["q_proj"]
    assert list(targeted(("q_proj",), LINEAR)) == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("q_prj",), "LoRA target q_prj matches no .* Do you mean q_proj\\? It has down_proj, q_proj.$"),
        (("q_proj", "zzz"), "LoRA target zzz matches no linear module of the base model. It has down_proj, q_proj.$"),
        (("proj",), "LoRA target proj matches"),
    ],
)
def test_a_target_that_matches_nothing(targets: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        target_names(targets, LINEAR)


def test_a_run_goes_on_from_what_it_would_make() -> None:
    check_continues(made(), ASKED, LINEAR)


def test_the_scale_counts_however_it_is_written() -> None:
    """By rsLoRA, alpha 4 at rank 4 is 4 / sqrt(4)."""
    check_continues(made(scale=4 / 4**0.5), ASKED, LINEAR)


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (made(rank=8, scale=1.0), "lora_rank = 4: .* has rank 8. Give lora_rank = 8.$"),
        (made(scale=4.0), "lora_alpha = 8: .* is scaled by 16 / 4. Give lora_alpha = 16.$"),
        (made(scale=0.3), "lora_alpha = 8: .* is scaled by 1.2 / 4. No lora_alpha gives that.$"),
        (made(modules=targeted(("q_proj",), LINEAR)), 'lora_targets = .* Give lora_targets = \\["q_proj"\\].$'),
        (made(modules=dict(list(LINEAR.items())[:2])), "changes only some .* \\(down_proj, q_proj\\)"),
        (made(modules=dict.fromkeys(LINEAR, (8, 8))), "changes only some"),
    ],
)
def test_another_adapter_is_refused_with_the_value_to_give(adapter: Adapter, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_continues(adapter, ASKED, LINEAR)


def test_targets_count_where_the_base_model_is_not_known() -> None:
    """The adapter's own modules stand for the base model's then."""
    for targets in (("q_proj",), ("q_proj", "up_proj")):
        with pytest.raises(InvalidInput, match='Give lora_targets = \\["down_proj", "q_proj"\\]'):
            check_continues(made(), ASKED.model_copy(update={"targets": targets}), LINEAR)
    check_continues(made(), ASKED.model_copy(update={"targets": ("q_proj", "down_proj")}), LINEAR)
