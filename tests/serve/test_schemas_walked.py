"""Whatever a grammar lets through is JSON that follows its schema: xgrammar's own choices, byte by byte, at random."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.errors import InvalidValue
from luthier.serve.doors.schema_texts import FORMATS
from luthier.serve.doors.schemas import check_schema, for_grammar

xgrammar = pytest.importorskip("xgrammar")

END = 256
"""The token that ends an answer; the others are bytes."""
LONG = 60
"""Bytes after which an answer is to end as soon as it may."""
ODD = [*range(32), 127, *b'"\\-/{}[],:']
WALKS = 4
COMPILER = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo(
        [*(bytes([byte]) for byte in range(END)), b"</s>"], vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[END]
    ),
    max_threads=1,
    cache_enabled=False,
)

ATOMS = st.sampled_from(
    [
        *("a", ".", r"\d", r"\s", r"\W", r"\S", "[a-c]", '["]', r"[\\]", r"[\n\t]", '[a"]', r"[^a]", r'[^"]', "[ -~]"),
        *(r"\u0041", r"\u0022", r"\x0a", r"\/", r"\.", r"\cJ", r"\t", '"', r"[\x00-\x1f]", r"[!-#]", '["-]', r"[\s\-]"),
        *("\u00fc", "[\U0001f600]", r"[^\s]", r"[^\S]", r"[^\W_]", r"[^\W\d_]", r"[^\D1]", "(a|b)", "(?:a)"),
    ]
)
PATTERNS = st.lists(st.tuples(ATOMS, st.sampled_from(["", "", "*", "+", "?", "{1,3}"])), min_size=1, max_size=4).map(
    lambda parts: f"^{''.join(atom + times for atom, times in parts)}$"
)
SCALARS = st.none() | st.booleans() | st.integers(-99, 99) | st.integers(-99, 99).map(lambda number: number / 8)
VALUES = SCALARS | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
NAMES = st.sampled_from(["a", "b", 'a"b', "\\", "\n", "\u00fc", ""])
TEXTS = st.one_of(
    st.just({"type": "string"}),
    PATTERNS.map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from([*sorted(FORMATS), "date", "uri", "uuid"]).map(lambda name: {"type": "string", "format": name}),
    st.tuples(st.integers(0, 3), st.integers(3, 6)).map(lambda ends: {"type": "string", **bounds("Length", ends)}),
    st.integers(0, 3).map(lambda most: {"type": ["string", "null"], "maxLength": most}),
)
NUMBERS = st.tuples(st.sampled_from(["integer", "number"]), st.integers(-20, 0), st.integers(1, 20)).map(
    lambda given: {"type": given[0], "minimum": given[1], "maximum": given[2]}
)
LEAVES = st.one_of(
    TEXTS,
    NUMBERS,
    st.sampled_from(["integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    VALUES.map(lambda value: {"const": value}),
    st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
)


def bounds(what: str, ends: tuple[int, int]) -> dict[str, int]:
    return {f"min{what}": ends[0], f"max{what}": ends[1]}


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ends = st.tuples(st.integers(0, 2), st.integers(2, 3))
    return st.tuples(inner, ends).map(lambda given: {"type": "array", "items": given[0], **bounds("Items", given[1])})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def schema(properties: dict[str, Any], optional: set[str], more: bool) -> dict[str, Any]:
        required = [name for name in properties if name not in optional]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": more}

    return st.builds(schema, st.dictionaries(NAMES, inner, max_size=3), st.sets(NAMES), st.booleans())


def arms(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.tuples(st.sampled_from(["anyOf", "oneOf"]), several).map(lambda given: {given[0]: given[1]})


SCHEMAS = st.recursive(LEAVES, lambda inner: arrays(inner) | objects(inner) | arms(inner), max_leaves=5)


def walked(grammar: Any, rng: random.Random) -> bytes:
    """An answer. None is longer than its schema asks for by much."""
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
        assert len(said) < 100 * LONG, said


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
    grammar = COMPILER.compile_json_schema(json.dumps(for_grammar(schema)))
    validator = VALIDATOR(schema)
    for number in range(WALKS):
        said = walked(grammar, random.Random(seed + number))
        answer = json.loads(said.decode(errors="replace"))  # as vLLM's detokenizer does it
        if is_unicode(said):
            validator.validate(answer)


@given(SCHEMAS, st.integers(0, 1 << 30))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_what_is_taken_is_kept_to(schema: dict[str, Any], seed: int) -> None:
    try:
        check_schema(schema, "response_format")
    except InvalidValue:
        return
    check_walks(schema, seed)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats_are_json(name: str) -> None:
    for seed in range(50):
        check_walks({"type": "string", "format": name}, WALKS * seed)
