"""How the two routes write the probabilities of tokens."""

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted

from luthier.platform.wire import TokenLogprob


def of_chat(tokens: Sequence[TokenLogprob]) -> str:
    content = ",".join(f"{{{_token(each.token, each.logprob)},{_top(each)}}}" for each in tokens)
    return f'{{"content":[{content}],"refusal":null}}'


def of_completion(tokens: Sequence[TokenLogprob], offset: int) -> str:
    """`offset` says where in the text the first of them begins."""
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each.token)
    names = ",".join(quoted(each.token) for each in tokens)
    numbers = ",".join(_number(each.logprob) for each in tokens)
    tops = ",".join(_alternatives(each) for each in tokens)
    return (
        f'{{"text_offset":[{",".join(map(str, offsets))}],"token_logprobs":[{numbers}],'
        f'"tokens":[{names}],"top_logprobs":[{tops}]}}'
    )


def num_characters(tokens: Sequence[TokenLogprob]) -> int:
    return sum(len(each.token) for each in tokens)


def _token(token: str, logprob: float | None) -> str:
    octets = ",".join(map(str, token.encode("utf-8", "replace")))
    return f'"token":{quoted(token)},"logprob":{_number(logprob)},"bytes":[{octets}]'


def _top(found: TokenLogprob) -> str:
    return f'"top_logprobs":[{",".join(f"{{{_token(*each)}}}" for each in found.top)}]'


def _alternatives(found: TokenLogprob) -> str:
    """By token, the one that was taken among them; of two that read alike the likelier."""
    if found.logprob is None:
        return "null"
    by_token = dict(reversed([*found.top, (found.token, found.logprob)]))
    return f"{{{','.join(f'{quoted(token)}:{_number(number)}' for token, number in reversed(by_token.items()))}}}"


def _number(number: float | None) -> str:
    return "null" if number is None else repr(number)
