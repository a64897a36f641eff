"""A base model in training, with a LoRA adapter or with all its weights: losses, answers, weights in and out.

Only the forward of LoRA's layers and the way to the losses are ours. A base model that this way would train wrongly is
refused when it is loaded.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_layers import GradientCheckpointingLayer

from luthier.errors import InvalidInput
from luthier.platform.data.prompts import Sample
from luthier.platform.options import Method
from luthier.platform.weights.adapter_files import WEIGHTS
from luthier.train import sharding
from luthier.train.attention import ATTENTION
from luthier.train.config import FitConfig
from luthier.train.kernels import HeadLoss, head_losses
from luthier.train.loading import build, default_dtype
from luthier.train.packing import IGNORED, Batch, pack
from luthier.train.team import Team

LENGTH_STEP = 32
"""Batches are filled up to a multiple of this: oneDNN compiles each product anew for each length it has not met."""


class TunedModel:
    """Made by load(). With shared weights every worker makes the same calls."""

    def __init__(self, module: Any, method: Method, device: torch.device, dtype: torch.dtype) -> None:
        self.module, self.method, self.device, self.dtype = module, method, device, dtype
        self._causal = causal = module if method is Method.FULL else module.get_base_model()
        self._within, self._backbone, self._head = Within(causal), causal.get_decoder(), causal.get_output_embeddings()
        self._constants: dict[str, Tensor] = {}
        """Buffers that belong to the model's files."""

    @classmethod
    def load(cls, config: FitConfig, device: torch.device, team: Team | None = None) -> "TunedModel":
        """The base model with fresh weights to train, or with those of config.continue_from."""
        dtype = default_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)
        if team is None or team.mesh is None:
            model = cls(build(config, device, dtype), config.method, device, dtype)
        else:
            source = team.together(lambda: build(config, torch.device("cpu"), dtype) if team.rank == 0 else None)
            model = cls(build(config, torch.device("meta"), dtype), config.method, device, dtype)
            sharding.spread(model._within, model.module, source, team.mesh, device)
        model.module.eval()
        model._refuse_unknown_kind()
        model.module.train()
        buffers = dict(model.module.named_buffers())
        model._constants = {name: buffers[name].cpu() for name in model.module.state_dict() if name in buffers}
        return model

    def trainable(self) -> list[Parameter]:
        return list(self.named_trainable().values())

    def named_trainable(self) -> dict[str, Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def layers(self) -> list[Any]:
        """Those that can be computed again on the way back."""
        return [part for part in self._backbone.modules() if isinstance(part, GradientCheckpointingLayer)]

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The cross-entropy [n] of each labelled token, and the number [n] of the document it stands in."""
        targets = batch.labels[1:].to(self.device)
        learned = (targets != IGNORED).nonzero()[:, 0]
        starts = torch.tensor([start for start, _ in batch.bounds], dtype=torch.int64, device=self.device)
        losses: Tensor = self._within(lambda: self._losses(batch, learned, targets[learned]))
        return losses, torch.bucketize(learned, starts, right=True) - 1

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped here
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos_id: int) -> list[list[int]]:
        """What the model writes after each prompt, always the likeliest token, up to and without the end token."""
        rows = [torch.tensor(ids) for ids in prompts]
        ids = pad_sequence(rows, batch_first=True, padding_value=eos_id, padding_side="left").to(self.device)
        ends = torch.tensor([[len(row)] for row in rows])
        mask = (torch.arange(ids.shape[1]) >= ids.shape[1] - ends).long().to(self.device)
        asked = {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": eos_id, "pad_token_id": eos_id}
        self._causal.set_attn_implementation("sdpa")
        try:
            with self._precision():
                whole = self._within(lambda: self._causal.generate(input_ids=ids, attention_mask=mask, **asked))
        finally:
            self._causal.set_attn_implementation(ATTENTION)
        written: list[list[int]] = whole[:, ids.shape[1] :].tolist()
        return [row[: row.index(eos_id)] if eos_id in row else row for row in written]

    def weights(self, is_wanted: bool = True) -> dict[str, Tensor]:
        """Copies on the CPU of all that is trained, in fp32; of no use on a worker that only takes part."""
        return {name: sharding.whole(p, is_wanted) for name, p in self.named_trainable().items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped here
    def take(self, weights: dict[str, Tensor]) -> None:
        """Puts what weights() gave in its place."""
        for name, p in self.named_trainable().items():
            p.copy_(sharding.put(weights[name], p))

    def save(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Writes what weights() gave: an adapter in PEFT's format in fp32, or a model in Hugging Face's.

        Runs beside the training of the same model, whose tensors it does not touch.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.method is Method.FULL:
            stored = self._constants | {name: tensor.to(self.dtype) for name, tensor in weights.items()}
            self.module.save_pretrained(str(folder), state_dict=stored)
            self.module.config.dtype = self.dtype  # save_pretrained took that of the weights in training
            self.module.config.save_pretrained(str(folder))
            return
        adapter = get_peft_model_state_dict(self.module, state_dict=weights, save_embedding_layers=False)
        save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / WEIGHTS, {"format": "pt"})
        self.module.peft_config["default"].save_pretrained(str(folder))

    def _losses(self, batch: Batch, learned: Tensor, targets: Tensor) -> Tensor:
        weight, bias = self._head.weight, self._head.bias
        score = head_losses if weight.requires_grad else HeadLoss.apply
        with self._precision():
            losses: Tensor = score(self._hidden(batch)[learned], weight, bias, targets)
        return losses

    def _precision(self) -> AbstractContextManager[Any]:
        """fp32 weights in training compute in the lower precision; a frozen base is in it already."""
        is_mixed = self.method is Method.FULL and self.dtype is not torch.float32
        return torch.autocast(self.device.type, self.dtype) if is_mixed else nullcontext()

    def _hidden(self, batch: Batch) -> Tensor:
        """[T, d] and some rows more, the last layer's output."""
        length = max(1, -(-batch.num_tokens // LENGTH_STEP)) * LENGTH_STEP
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
        first, second = ((Sample(ids=tuple(range(start, start + 16)), learned=((8, 16),)),) for start in (0, 16))
        ids = torch.tensor([second[0].ids], device=self.device)

        def outputs() -> tuple[Tensor, ...]:
            packed, alone = self._hidden(pack([first, second]))[16:32], self._hidden(pack([second]))[:16]
            logits = self._causal(input_ids=ids, use_cache=False, bounds=[(0, 16)]).logits
            return packed, alone, self._head(alone), logits

        with torch.no_grad(), self._precision():
            packed, alone, scored, logits = self._within(outputs)
        if _distance(packed, alone) > 0.1 or _distance(scored, logits[0]) > 0.02:
            raise InvalidInput("This kind of base model cannot be trained: it mixes packed rows or changes its logits.")


class Within(torch.nn.Module):  # type: ignore[misc]  # torch's classes are untyped here
    """Runs work as a model's forward: weights that are shared out are whole for as long as one lasts."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def _distance(a: Tensor, b: Tensor) -> float:
    """Length of the difference, relative to b."""
    return float((a.float() - b.float()).norm() / b.float().norm())
