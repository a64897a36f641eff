"""The README.md of a model that leaves: what Hugging Face reads, how it was made, how it is loaded. Facts only."""

import json
from collections.abc import Mapping
from typing import Any

from luthier.platform.base_models import BaseModel
from luthier.platform.models import ModelVersion
from luthier.platform.options import Method
from luthier.platform.tasks import TaskType

CARD = "README.md"
LICENCES = {"apache-2.0", "mit", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3"}
"""Identifiers that the Hugging Face hub knows."""
PRIMERS = {
    "adapter": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("{hf}")""",
    "whole": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")""",
}
SERVING = {
    "adapter": "vllm serve {hf} --enable-lora --max-lora-rank {rank} --lora-modules {name}=FOLDER",
    "whole": "vllm serve FOLDER",
}


def model_card(version: ModelVersion, base: BaseModel, manifest: Mapping[str, Any], is_merged: bool) -> str:
    """Of an adapter, or of whole weights."""
    kind = "whole" if is_merged or version.method is Method.FULL else "adapter"
    name = f"{version.model}, version {version.version}"
    told = {"hf": base.hf, "rank": version.rank, "name": "tuned"}
    parts = [
        _front_matter(version, base, kind),
        f"# {name}",
        _what(version, base, is_merged),
        f"## How it was made\n\n{_made(version, manifest)}",
        f"## How it is loaded\n\n```python\n{PRIMERS[kind].format(**told)}\n```\n\n```sh\n"
        f"{SERVING[kind].format(**told)}\n```\n\n{_asked(version.task_type)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(version: ModelVersion, base: BaseModel, kind: str) -> str:
    licence = base.licence.lower().replace("llama-", "llama")
    lines = [f"base_model: {base.hf}", f"base_model_relation: {'adapter' if kind == 'adapter' else 'finetune'}"]
    if licence in LICENCES:
        lines.append(f"license: {licence}")
    else:
        lines += ["license: other", f"license_name: {licence}"]
    lines += [f"library_name: {'peft' if kind == 'adapter' else 'transformers'}", "pipeline_tag: text-generation"]
    tags = ["luthier", version.method.value, *(["dpo"] if version.task_type is TaskType.DPO else [])]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _what(version: ModelVersion, base: BaseModel, is_merged: bool) -> str:
    origin = f"[{base.hf}](https://huggingface.co/{base.hf}) (revision `{base.revision}`, licence {base.licence})"
    if version.method is Method.FULL:
        return f"All weights of {origin}, tuned."
    if is_merged:
        return f"{origin} with a LoRA adapter of rank {version.rank} merged into its weights."
    return f"A LoRA adapter of rank {version.rank} on {origin}."


def _made(version: ModelVersion, manifest: Mapping[str, Any]) -> str:
    if version.job_id is None:
        return "The adapter was trained elsewhere and imported; how, is not recorded."
    rows: dict[str, Any] = {"job": f"`{version.job_id}`", "task": version.task_type.value}
    if data := manifest.get("data"):
        rows["training rows"] = f"{data['rows']} (SHA-256 `{data['train_sha256']}`)"
        rows["validation rows"] = f"{data['validation_rows']} (SHA-256 `{data['validation_sha256']}`)"
    names = {"trained_tokens": "trained tokens", "training_loss": "training loss", "validation_loss": "validation loss"}
    rows |= {label: manifest[key] for key, label in names.items() if manifest.get(key) is not None}
    if version.parent:
        rows["began with"] = f"`{version.parent}`"
    if versions := manifest.get("versions"):
        rows["software"] = ", ".join(f"{package} {number}" for package, number in versions.items())
    table = "\n".join(["| | |", "|---|---|", *(f"| {label} | {value} |" for label, value in rows.items())])
    options = json.dumps(manifest.get("options", {}), indent=2)
    return f"{table}\n\nOptions:\n\n```json\n{options}\n```"


def _asked(task: TaskType) -> str:
    if task.is_plain:
        return "It was trained without a chat template: the prompt is text as it stands."
    return "It is asked through the tokenizer's chat template."
