"""What the training benchmark trains: rows of three sets of real questions, and a base model made on the spot."""

import csv
import json
import random
from pathlib import Path

import click

SETS = ("gsm8k", "banking77", "self-instruct")
Rows = list[tuple[str, str]]


def read_rows(data: Path, names: tuple[str, ...], num: int) -> Rows:
    """The same number of each set, in an order of no meaning."""
    chosen: Rows = []
    for at, name in enumerate(names):
        rows = _read(data / name)
        random.Random(0).shuffle(rows)
        chosen += rows[: num // len(names) + (at < num % len(names))]
    if len(chosen) < num:
        raise click.ClickException(f"{', '.join(names)} have {len(chosen)} of {num} rows: ask for fewer steps.")
    return chosen


def _read(folder: Path) -> Rows:
    if folder.name == "banking77":
        return [(row["text"], row["category"]) for row in csv.DictReader((folder / "train.csv").open())]
    if folder.name == "gsm8k":
        lines = (folder / "train.jsonl").read_text().splitlines()
        return [(row["question"], row["answer"]) for row in map(json.loads, lines)]
    rows: Rows = []
    for line in (folder / "seed_tasks.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows += [(f"{row['instruction']}\n{each['input']}".strip(), each["output"]) for each in row["instances"][:1]]
    return rows


def make_tiny(folder: Path, data: Path) -> Path:
    """A Llama with random weights and a tokenizer learned from the data."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    learned = ByteLevelBPETokenizer()
    texts = (text for name in SETS for row in _read(data / name) for text in row)
    learned.train_from_iterator(texts, vocab_size=32000, special_tokens=["<|end|>"], show_progress=False)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    PreTrainedTokenizerFast(
        tokenizer_object=learned._tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=template
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
