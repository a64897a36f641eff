"""How text becomes tokens, in one place for the data report, the trainer and the server.

What a model was trained on is then, token by token, what it is asked with. Uses transformers' tokenizer, which
loads no torch.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.errors import InvalidInput, Unavailable
from luthier.platform.frozen import Frozen

Message = dict[str, str]


class Sample(Frozen):
    """One training row in tokens: ids[:num_prompt] is context, ids[num_prompt:] is learned."""

    ids: tuple[int, ...]
    num_prompt: int
    was_cut: bool = False


class Prompts:
    """The tokenizer and chat template of one base model."""

    def __init__(self, base_dir: Path) -> None:
        if not (base_dir / "tokenizer.json").is_file():
            raise Unavailable(
                f"The base model {base_dir.name} is not fetched: add it to serve_base_models; `luthier up` fetches it."
            )
        from transformers import PreTrainedTokenizerFast

        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(str(base_dir))

    @property
    def eos_id(self) -> int:
        return int(self._tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, nothing added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation through the base model's chat template, open for the assistant's answer."""
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # the template is the base model's own code and raises what it likes
            raise InvalidInput(f"The base model's chat template refuses these messages: {error}") from error
        return self.encode(text)

    def sample(self, prompt: str, completion: str, max_prompt: int, max_completion: int) -> Sample:
        """A prompt-completion row as one user turn and its answer, each cut at its share of the context.

        A long prompt loses its text's tail, so that the template around it stays whole; a long completion keeps its
        first tokens. Every completion ends with the end-of-sequence token.
        """
        head = self.chat([{"role": "user", "content": prompt}])
        body = [*self.encode(completion), self.eos_id]
        cut = len(head) > max_prompt or len(body) > max_completion
        if len(head) > max_prompt:
            head = self._chat_within(prompt, max_prompt, len(head))
        if len(body) > max_completion:
            body = [*body[: max_completion - 1], self.eos_id]
        return Sample(ids=(*head, *body), num_prompt=len(head), was_cut=cut)

    def _chat_within(self, prompt: str, limit: int, length: int) -> list[int]:
        ids = self.encode(prompt)
        keep = len(ids) - (length - limit)
        while keep > 0:
            text = self._tokenizer.decode(ids[:keep], skip_special_tokens=False)
            head = self.chat([{"role": "user", "content": text}])
            if len(head) <= limit:
                return head
            keep -= max(1, len(head) - limit)
        raise InvalidInput(f"The prompt share of {limit} tokens is smaller than the chat template itself.")


@lru_cache(maxsize=16)
def load_prompts(base_dir: Path) -> Prompts:
    """The prompts of a base model's folder, loaded once a process."""
    return Prompts(base_dir)
