"""How text becomes tokens, in one place for the data report, the trainer and the server.

What a model was trained on is then, token by token, what it is asked with. Uses transformers' tokenizer, which
loads no torch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from luthier.errors import InvalidInput, InvalidValue, NotFetched

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training document in tokens."""

    ids: tuple[int, ...]
    learned: tuple[tuple[int, int], ...]
    """Start and end of each run of tokens that is learned; everything else is context."""
    was_cut: bool = False

    @property
    def num_learned(self) -> int:
        return sum(end - start for start, end in self.learned)


class Prompts:
    """The tokenizer and chat template of one base model."""

    def __init__(self, base_dir: Path) -> None:
        if not (base_dir / "tokenizer.json").is_file():
            name = base_dir.name.partition("@")[0]
            raise NotFetched(
                f"Base model {name} is not on this server: `luthier base-models fetch {name}` there fetches it."
            )
        from transformers import PreTrainedTokenizerFast

        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(str(base_dir))
        self._fast: Any = self._tokenizer.backend_tokenizer
        self._fast.no_truncation()
        self._fast.no_padding()

    @property
    def tokenizer(self) -> Any:
        """transformers' own."""
        return self._tokenizer

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template says anything of tools."""
        template = self._tokenizer.chat_template  # one, several by their names, or none
        texts = template.values() if isinstance(template, dict) else [template or ""]
        return any(re.search(r"\btools\b", text) for text in texts)

    @property
    def eos_id(self) -> int:
        return int(self._tokenizer.eos_token_id)

    @property
    def eos_text(self) -> str:
        return str(self._tokenizer.eos_token)

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token; of a byte-level vocabulary, bytes."""
        return max(map(len, self._fast.get_vocab()))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, nothing added."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of many texts, on all cores."""
        # Of the tokenizer's methods this one alone lets other threads run meanwhile, and may be called by many at once.
        return [found.ids for found in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    def chat(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Token ids of a conversation through the base model's chat template, open for the assistant's answer."""
        return self.encode(self.chat_text(messages, tools))

    def chat_text(self, messages: Sequence[Message], tools: Tools | None = None) -> str:
        """The same as text."""
        is_of_tools = tools or any("tool_calls" in each or each.get("role") == "tool" for each in messages)
        if is_of_tools and not self.knows_tools:
            raise InvalidValue("Invalid 'tools': the base model has no tools in its chat template.", param="tools")
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tools=tools, tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:  # the template is the base model's own code and raises what it likes
            raise InvalidInput(f"The base model's chat template refuses these messages: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens shown."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


@lru_cache(maxsize=16)
def load_prompts(base_dir: Path) -> Prompts:
    """The prompts of a base model's folder, loaded once a process."""
    return Prompts(base_dir)
