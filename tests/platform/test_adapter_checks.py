"""Each fault of an adapter from elsewhere is named in one sentence; what is served rightly passes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from luthier.errors import Conflict, InvalidInput, NotFetched
from luthier.platform.base_models import BaseModel, load_catalog
from luthier.platform.settings import Settings
from luthier.platform.weights.adapter_checks import check_adapter
from luthier.platform.weights.adapter_files import SETTINGS, WEIGHTS, check_file_name, check_files
from luthier.platform.weights.base_shapes import INDEX, linear_modules
from luthier.platform.weights.lora import Adapter, last_names
from luthier.platform.weights.tensors import read_header
from tests.tiny_adapter import Tensors, build_adapter, change_settings, change_weights, drop_setting

LAYER = "base_model.model.model.layers.0"
Q, DOWN = f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.down_proj"


@pytest.fixture
def base(settings: Settings) -> BaseModel:
    """Served up to rank 16."""
    return load_catalog(settings).get("tiny")


@pytest.fixture
def check(base: BaseModel, tiny_model: Path) -> Callable[[Path], Adapter]:
    return lambda folder: check_adapter(folder, base, linear_modules(tiny_model))


Check = Callable[[Path], Adapter]


def test_a_sound_adapter(check: Check, adapter: Path, tiny_model: Path) -> None:
    found = check(adapter)
    assert (found.rank, found.scale) == (8, 2.0)
    assert found.modules == linear_modules(tiny_model)


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({"use_rslora": True, "r": 4}, 8.0),
        ({"r": 16, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}, 1.0),
        ({"target_modules": ["self_attn.q_proj"], "layers_to_transform": [1]}, 2.0),
        ({"target_modules": r".*layers\.0\.mlp\.(up|down)_proj"}, 2.0),
        ({"init_lora_weights": "orthogonal"}, 2.0),
        ({"target_modules": ["down_proj", "q_proj"], "exclude_modules": ["model.layers.1.mlp.down_proj"]}, 2.0),
    ],
    ids=str,
)
def test_what_is_served_rightly_passes(
    check: Check, tiny_model: Path, tmp_path: Path, given: dict[str, Any], scale: float
) -> None:
    assert check(build_adapter(tiny_model, tmp_path / "made", **given)).scale == scale


def test_eva_is_served_if_it_left_the_ranks_alone(check: Check, adapter: Path) -> None:
    change_settings(adapter, init_lora_weights="eva", eva_config={"rho": 1.0}, rank_pattern={})
    assert check(adapter).rank == 8
    change_settings(adapter, rank_pattern={"model.layers.0.self_attn.q_proj": 9})
    with pytest.raises(InvalidInput, match="rank_pattern"):
        check(adapter)


@pytest.mark.parametrize("key", ["bias", "task_type", "init_lora_weights", "use_rslora"])
def test_settings_that_may_be_absent(check: Check, adapter: Path, key: str) -> None:
    drop_setting(adapter, key)
    assert check(adapter).rank == 8


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_floats_of_both_sizes(check: Check, adapter: Path, kind: type) -> None:
    change_weights(adapter, lambda tensors: tensors.update({name: each.astype(kind) for name, each in tensors.items()}))
    assert check(adapter).rank == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LOHA"}, 'peft_type = "LOHA"'),
        ({"peft_type": None}, "peft_type = null: only LORA"),
        ({"task_type": "SEQ_CLS"}, 'task_type = "SEQ_CLS"'),
        ({"bias": "lora_only"}, 'bias = "lora_only".*bias "none"'),
        ({"bias": None}, "bias = null"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "begins by changing the base model"),
        ({"use_dora": True}, "use_dora = true: the engine would not heed it"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"a_key_of_next_year": True}, "a_key_of_next_year"),
        ({"a\ud800\n": True}, r"a\\ud800\\n = true"),
        ({"k" * 500: "v" * 500}, "k{120}\\.\\.\\. = "),
        ({"r": 10**400}, "r = 1000.*: the rank must be a whole number from 1 to 65536"),
        ({"r": 10**400, "use_rslora": True}, "r = 1000"),
        ({"lora_alpha": 10**400}, "lora_alpha = 1000.*at most 1000000000"),
        ({"r": 0}, "r = 0: the rank must be"),
        ({"r": 4}, r"by r = 4 in adapter_config.json they must be \[4, in\] and \[out, 4\]"),
        ({"r": True}, "r = true"),
        ({"r": 8.0}, "r = 8.0"),
        ({"r": None}, "r = null"),
        ({"lora_alpha": 0}, "lora_alpha = 0"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha = null"),
        ({"target_modules": None}, "target_modules = null"),
        ({"target_modules": []}, r"target_modules = \[\]"),
        ({"target_modules": [1]}, "target_modules"),
        ({"target_modules": ["q_proj"]}, "adapter_model.safetensors has model.layers.0.mlp.down_proj too"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_are_refused(check: Check, adapter: Path, changes: dict[str, Any], words: str) -> None:
    change_settings(adapter, **changes)
    with pytest.raises(InvalidInput, match=words) as caught:
        check(adapter)
    assert caught.value.message.startswith(("adapter_config.json: ", "adapter_model.safetensors: "))
    assert len(caught.value.message.encode()) < 500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"lora_alpha": NaN, "r": 8}', "lora_alpha = NaN"),
        ('{"lora_alpha": Infinity, "r": 8}', "lora_alpha = Infinity"),
        (" " * (1 << 20) + "{}", "more than 1 MiB"),
    ],
    ids=lambda text: text[:12].strip(),
)
def test_settings_that_cannot_be_read(check: Check, adapter: Path, text: str, words: str) -> None:
    (adapter / SETTINGS).write_text(text)
    with pytest.raises(InvalidInput, match=words):
        check(adapter)


@pytest.mark.parametrize(
    ("encoding", "words"), [("utf-16", "not UTF-8"), ("utf-8-sig", "not valid JSON"), ("utf-32", "not UTF-8")]
)
def test_settings_that_are_not_utf_8(check: Check, adapter: Path, encoding: str, words: str) -> None:
    """json.loads takes bytes of all these, and the engine does not."""
    (adapter / SETTINGS).write_text((adapter / SETTINGS).read_text(), encoding)
    with pytest.raises(InvalidInput, match=words):
        check(adapter)


def put(name: str, value: np.ndarray) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: value})


def zeros(*shape: int, kind: type = np.float32) -> np.ndarray:
    return np.zeros(shape, kind)


def spoil(value: float) -> Callable[[Tensors], Any]:
    def change(tensors: Tensors) -> None:
        tensors[f"{Q}.lora_B.weight"][3, 3] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.clear(), "holds no weights"),
        (lambda tensors: tensors.pop(f"{Q}.lora_B.weight"), "model.layers.0.self_attn.q_proj has no lora_B"),
        (lambda tensors: tensors.pop(f"{Q}.lora_A.weight"), "q_proj has no lora_A"),
        (
            lambda tensors: [tensors.pop(f"{Q}.lora_{half}.weight") for half in "AB"],
            "has no weights of model.layers.0.self_attn.q_proj",
        ),
        (put(f"{Q}.lora_A.weight", zeros(4, 64)), r"lora_A \[4, 64\] and lora_B \[64, 8\]"),
        (put(f"{Q}.lora_A.weight", zeros(8, 32)), r"q_proj is 64 x 32, and in tiny 64 x 64"),
        (put(f"{DOWN}.lora_B.weight", zeros(32, 8)), r"down_proj is 32 x 128, and in tiny 64 x 128"),
        (put(f"{Q}.lora_A.weight", zeros(8)), r"lora_A \[8\]"),
        (put(f"{Q}.lora_A.weight", zeros(8, 64, kind=np.float64)), "is F64. Save the adapter in F32, F16, BF16"),
        (put(f"{Q}.lora_A.weight", zeros(8, 64, kind=np.int32)), "is I32"),
        (spoil(np.nan), "q_proj.lora_B.weight has values that are no finite numbers"),
        (spoil(-np.inf), "no finite numbers"),
        (put("base_model.model.lm_head.weight", zeros(2, 2)), "lm_head.weight is no half of a LoRA pair"),
        (put("base_model.model.model.embed_tokens.lora_embedding_A", zeros(8, 2)), "no half of a LoRA pair"),
        (put(f"{Q}.lora_magnitude_vector", zeros(64)), "no half of a LoRA pair"),
        (put(f"{Q}.lora_A.default.weight", zeros(8, 64)), "no half of a LoRA pair"),
        (put("model.layers.0.self_attn.q_proj.lora_A.weight", zeros(8, 64)), "no half of a LoRA pair"),
        (
            lambda tensors: tensors.update(
                {f"base_model.model.lm_head.lora_{half}.weight": zeros(8, 8) for half in "AB"}
            ),
            "lm_head is no module of tiny that takes an adapter",
        ),
        (
            lambda tensors: tensors.update(
                {name.replace("layers.1", "layers.2"): each for name, each in list(tensors.items()) if ".1." in name}
            ),
            "model.layers.2.mlp.down_proj is no module of tiny",
        ),
    ],
)
def test_weights_that_are_refused(check: Check, adapter: Path, change: Callable[[Tensors], Any], words: str) -> None:
    change_weights(adapter, change)
    with pytest.raises(InvalidInput, match=words):
        check(adapter)


def test_a_header_that_no_adapter_has(check: Check, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused by its first bytes, and never parsed."""
    monkeypatch.setattr("luthier.platform.weights.tensors.safe_open", None)
    (adapter / WEIGHTS).write_bytes((5 << 20).to_bytes(8, "little") + b" " * (5 << 20))
    with pytest.raises(InvalidInput, match="has a header of 5242880 bytes"):
        check(adapter)


def test_the_header_is_read_once(check: Check, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(file: Path, most: int) -> Any:
        read.append(file)
        return read_header(file, most)

    monkeypatch.setattr("luthier.platform.weights.adapter_files.read_header", counted)
    check(adapter)
    assert read == [adapter / WEIGHTS]


def test_names_in_messages_are_short(check: Check, adapter: Path) -> None:
    change_weights(adapter, put("x\n" * 100_000, zeros(2, 2)))
    with pytest.raises(InvalidInput, match=r"x\\nx\\n") as caught:
        check(adapter)
    assert len(caught.value.message) < 500


def test_weights_cut_short(check: Check, adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(InvalidInput, match="not a whole one"):
        check(adapter)


def test_a_rank_above_what_is_served(check: Check, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="r = 17: tiny can be served up to rank 16"):
        check(build_adapter(tiny_model, tmp_path / "made", r=17))


def test_the_vision_part_takes_no_adapter(base: BaseModel, adapter: Path) -> None:
    """Of a model that sees: the text part's modules stand below model.language_model."""
    tensors = load_file(adapter / WEIGHTS)
    modules = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in tensors}
    linear = {module: shape_of(tensors, module) for module in modules} | {"model.language_model.layers.0.up": (1, 1)}
    with pytest.raises(InvalidInput, match=r"is no module of tiny that takes an adapter.*vision part"):
        check_adapter(adapter, base, linear)


def rename(old: str, new: str) -> Callable[[Tensors], Any]:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


@pytest.mark.parametrize("saved_as", ["model.language_model", "language_model.model"])
def test_both_names_of_the_text_part(base: BaseModel, adapter: Path, tiny_model: Path, saved_as: str) -> None:
    """transformers has changed it, and the engine knows both."""
    linear = {
        name.replace("model.", "model.language_model.", 1): shape for name, shape in linear_modules(tiny_model).items()
    }
    change_weights(adapter, rename("base_model.model.model", f"base_model.model.{saved_as}"))
    for targets in (last_names(linear), [name.replace("model.language_model", saved_as) for name in linear]):
        change_settings(adapter, target_modules=targets)
        assert check_adapter(adapter, base, linear).modules == linear


def test_both_names_at_once(check: Check, adapter: Path) -> None:
    for text in ("model.language_model", "language_model.model"):
        name = f"base_model.model.{text}.layers.0.self_attn.q_proj.lora_A.weight"
        change_weights(adapter, put(name, zeros(8, 64)))
    with pytest.raises(InvalidInput, match="a module under two names"):
        check(adapter)


def shape_of(tensors: Tensors, module: str) -> tuple[int, int]:
    a, b = (tensors[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
    return b.shape[0], a.shape[1]


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "x.ckpt"])
def test_pickles(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is a pickle.*safe_serialization=True"):
        check_file_name(name)


def test_names_of_files() -> None:
    for name in (SETTINGS, WEIGHTS):
        check_file_name(name)
    with pytest.raises(InvalidInput, match=r"README.md is no file of an adapter"):
        check_file_name("README.md")
    check_files([SETTINGS, WEIGHTS, "README.md", "adapter_model.bin"])
    with pytest.raises(InvalidInput, match=r"adapter_model.bin is a pickle"):
        check_files([SETTINGS, "adapter_model.bin"])
    with pytest.raises(InvalidInput, match=r"adapter_config.json is missing"):
        check_files([WEIGHTS])


def test_shapes_of_a_base_in_parts(tiny_model: Path, tmp_path: Path) -> None:
    """An index names the files; what it does not name is not read."""
    whole = linear_modules(tiny_model)
    from transformers import AutoModelForCausalLM

    parts = tmp_path / "parts"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(parts, max_shard_size="100KB")
    (parts / "consolidated.safetensors").write_bytes(b"other")
    assert (parts / INDEX).is_file()
    assert linear_modules(parts) == whole
    next(parts.glob("model-00002*")).unlink()
    with pytest.raises(NotFetched, match="lack model-00002"):
        linear_modules(parts)
    assert linear_modules(tmp_path / "nothing") == {}


@pytest.fixture
def own_base(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "own@main"))


def test_headers_are_read_once_while_files_stay_the_same(own_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(file: Path) -> Any:
        read.append(file)
        return read_header(file)

    monkeypatch.setattr("luthier.platform.weights.base_shapes.read_header", counted)
    file = own_base / "model.safetensors"
    assert linear_modules(own_base) == linear_modules(own_base)
    assert read == [file]
    os.utime(file, (0, 0))
    linear_modules(own_base)
    assert read == [file, file]


def test_damaged_weights_of_a_base_are_no_fault_of_the_request(own_base: Path) -> None:
    (own_base / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(Conflict, match=r"^The weights of base model own are damaged: fetch them anew\. model\.safet"):
        linear_modules(own_base)
