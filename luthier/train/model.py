"""A frozen base model with a LoRA adapter in training: load, loss, save.

The adapter is PEFT's; only the forward of its layers and the way to the loss are ours. A base model that this way
would train wrongly is refused when it is loaded.
"""

from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM

from luthier.errors import InvalidInput
from luthier.platform.prompts import Sample
from luthier.train.config import LoraSettings
from luthier.train.kernels import ATTENTION, HeadLoss, LoraLinear
from luthier.train.packing import IGNORED, Batch, pack

__all__ = ["LoraSettings", "TunedModel", "default_dtype"]

WEIGHTS = "adapter_model.safetensors"
LENGTH_STEP = 32
"""Batches are filled up to a multiple of this: oneDNN compiles each product anew for each length it has not met."""


class TunedModel:
    """Made by load()."""

    def __init__(self, peft: Any, device: torch.device) -> None:
        self.peft = peft
        self.device = device
        causal = peft.get_base_model()
        self._backbone = causal.get_decoder()
        self._head = causal.get_output_embeddings()

    @classmethod
    def load(
        cls, base_dir: Path, lora: LoraSettings, seed: int, device: torch.device, dtype: torch.dtype
    ) -> "TunedModel":
        base = AutoModelForCausalLM.from_pretrained(
            str(base_dir), dtype=dtype, attn_implementation=ATTENTION, local_files_only=True
        ).to(device)
        settings = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=_targets(base, lora),
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(base_dir),
        )
        torch.manual_seed(seed)
        peft = get_peft_model(base, settings)
        if lora.dropout == 0:
            for module in peft.modules():
                if isinstance(module, LoraLayer):
                    module.forward = MethodType(_lora_forward, module)
        model = cls(peft.eval(), device)
        model._refuse_unknown_kind()
        peft.train()
        return model

    def trainable(self) -> list[Parameter]:
        return [p for p in self.peft.parameters() if p.requires_grad]

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """The sum of the cross-entropies over the labelled tokens, and how many they are."""
        hidden = self._hidden(batch)
        targets = batch.labels[1:].to(self.device)
        learned = (targets != IGNORED).nonzero()[:, 0]
        loss = HeadLoss.apply(hidden[learned], self._head.weight, self._head.bias, targets[learned])
        return loss, len(learned)

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter in PEFT's format, in fp32."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS, {"format": "pt"})
        self.peft.peft_config["default"].save_pretrained(str(folder))

    def load_adapter(self, folder: Path) -> None:
        """Takes over the weights of an adapter of the same shape."""
        result = set_peft_model_state_dict(self.peft, load_file(folder / WEIGHTS))
        if result.unexpected_keys:
            raise InvalidInput(f"The adapter in {folder} has weights that this model has no place for.")

    def _hidden(self, batch: Batch) -> Tensor:
        """[T, d] and some rows more, the last layer's output."""
        length = -(-batch.num_tokens // LENGTH_STEP) * LENGTH_STEP
        extra = length - batch.num_tokens
        out: Tensor = self._backbone(
            input_ids=pad(batch.input_ids, (0, extra))[None].to(self.device),
            position_ids=pad(batch.position_ids, (0, extra))[None].to(self.device),
            use_cache=False,
            bounds=[*batch.bounds, (batch.num_tokens, length)] if extra else batch.bounds,
        ).last_hidden_state[0]
        return out

    def _refuse_unknown_kind(self) -> None:
        """Documents must stay apart in every layer, and the head alone must make the logits; both are tried here."""
        first, second = (Sample(ids=tuple(range(start, start + 16)), num_prompt=8) for start in (0, 16))
        with torch.no_grad():
            packed, alone = self._hidden(pack([first, second]))[16:32], self._hidden(pack([second]))[:16]
            ids = torch.tensor([second.ids], device=self.device)
            logits = self.peft.get_base_model()(input_ids=ids, use_cache=False, bounds=[(0, 16)]).logits[0]
            scored = self._head(alone)
        if _distance(packed, alone) > 0.1 or _distance(scored, logits) > 0.02:
            raise InvalidInput("This kind of base model cannot be trained: it mixes packed rows or changes its logits.")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _targets(base: Any, lora: LoraSettings) -> list[str]:
    """The names of the linear modules to adapt; the head is no target, for the loss reads its frozen weight."""
    head = base.get_output_embeddings()
    linear = (name for name, part in base.named_modules() if isinstance(part, torch.nn.Linear) and part is not head)
    there = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if lora.targets == "all-linear":
        return there
    unknown = [name for name in lora.targets if name not in there]
    if unknown:
        raise InvalidInput(
            f"LoRA target {', '.join(unknown)} matches no linear module of the base model; it has {', '.join(there)}."
        )
    return list(lora.targets)


def _lora_forward(layer: Any, x: Tensor) -> Tensor:
    base, name = layer.base_layer, layer.active_adapters[0]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name]
    out: Tensor = LoraLinear.apply(x, base.weight, base.bias, a, b)
    return out


def _distance(a: Tensor, b: Tensor) -> float:
    """Length of the difference, relative to b."""
    return float((a.float() - b.float()).norm() / b.float().norm())
