"""Walks through a grammar: xgrammar's own choices, byte by byte, at random."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest

from luthier.serve.doors.schema_told import for_grammar
from luthier.serve.doors.schemas import check_schema

xgrammar = pytest.importorskip("xgrammar")

END = 256
"""The token that ends an answer; the others are bytes."""
LONG, MOST = 60, 3_000
"""Bytes after which an answer is to end as soon as it may, and those after which it is cut."""
ODD = [*range(32), 127, *b'"\\-/{}[],:']
WALKS = 4
COMPILER = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo(
        [*(bytes([byte]) for byte in range(END)), b"</s>"], vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[END]
    ),
    max_threads=1,
    cache_enabled=True,
)


def walked(grammar: Any, rng: random.Random) -> bytes | None:
    """An answer; None where it is cut, in a text whose pattern ends with what is hard to hit.

    No other is longer than its schema asks for by much.
    """
    matcher, mask = xgrammar.GrammarMatcher(grammar), xgrammar.allocate_token_bitmask(1, END + 1)
    said = bytearray()
    while True:
        matcher.fill_next_token_bitmask(mask)
        bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")[: END + 1]
        token = chosen(np.flatnonzero(bits).tolist(), bytes(said), rng)
        assert matcher.accept_token(token)
        if token == END:
            return bytes(said)
        said.append(token)
        if len(said) > MOST:
            assert is_in_text(said), said
            return None


def chosen(allowed: list[int], said: bytes, rng: random.Random) -> int:
    ends = [END, ord('"')] if is_in_text(said) else [END, *b"}]"]
    ending = [token for token in ends if token in allowed]
    if ending and (len(said) > LONG or rng.random() < 0.2):
        return ending[0]
    odd = [token for token in ODD if token in allowed]
    return rng.choice(odd if odd and rng.random() < 0.3 else allowed)


def is_in_text(said: bytes) -> bool:
    return bool(re.sub(rb"\\.", b"", said, flags=re.DOTALL).count(b'"') % 2)


def is_unicode(said: bytes) -> bool:
    """xgrammar lets through some bytes that are no UTF-8, which count for more characters once they are replaced."""
    return "\ufffd" not in said.decode(errors="replace")


def matched(_: Any, pattern: str, answer: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """Letters, digits and spaces by escapes are ASCII's, as ECMA has it for the first two and xgrammar for all."""
    if isinstance(answer, str) and not re.search(pattern, answer, re.ASCII):
        yield jsonschema.ValidationError(f"{answer!r} does not match {pattern!r}")


VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": matched})


def check_walks(schema: dict[str, Any], seed: int) -> None:
    held_to = check_schema(schema, "response_format")
    grammar = COMPILER.compile_json_schema(json.dumps(for_grammar(held_to)))
    validator = VALIDATOR(schema)
    for number in range(WALKS):
        said = walked(grammar, random.Random(seed + number))
        if said is None:
            continue
        answer = json.loads(said.decode(errors="replace"))  # as vLLM's detokenizer does it
        if is_unicode(said):
            validator.validate(answer)
