"""A row of any task as training documents in tokens: what is context, what is learned, what is cut.

Used by the data report and the trainer alike, so that both count the same tokens. A row becomes texts, context and
answer in turns; many rows' texts are tokenised together; then each row's tokens become its examples.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from pydantic import Field

from luthier.errors import BadDataset, ContextTooLong, InvalidInput
from luthier.platform.data.prompts import Message, Prompts, Sample
from luthier.platform.data.row_checks import messages_of
from luthier.platform.frozen import Frozen
from luthier.platform.tasks import TaskType

Row = Mapping[str, str]
Example = tuple[Sample, ...]
"""What is batched as one: a document, or a preference pair (chosen, rejected)."""
Refuse = Callable[[int, InvalidInput], None]
"""Told the number of a row, from 1, that cannot be rendered."""

CHUNK_ROWS, CHUNK_CHARACTERS = 1024, 2**22
"""Tokenised together."""
SECTION_CHARACTERS = 2**20
"""A longer text is tokenised in sections: the tokenizer takes a hundred times a text's memory."""


class Rendering(Frozen):
    """How rows become tokens."""

    task_type: TaskType = TaskType.CHAT_COMPLETION
    train_on: str = "last"
    """The assistant's last turn, or all."""
    max_prompt: int = Field(4096, ge=1)
    """Tokens of context before an answer; more are cut."""
    max_completion: int = Field(4096, ge=2)

    @property
    def max_tokens(self) -> int:
        return self.max_prompt + self.max_completion


def render(rows: Iterable[Row], prompts: Prompts, how: Rendering) -> list[Example]:
    """The examples of all rows in their order. BadDataset names the row that cannot be rendered."""

    def refuse(number: int, error: InvalidInput) -> None:
        raise BadDataset(f"Row {number}: {error.message}") from error

    return [example for _, examples in render_each(rows, prompts, how, refuse) for example in examples]


def render_each(
    rows: Iterable[Row], prompts: Prompts, how: Rendering, refuse: Refuse
) -> Iterator[tuple[int, list[Example]]]:
    """Number and examples of each row that can be rendered, without the text of all rows in tokens at once.

    A row is one example; a long text as many as it fills, and none without a second token.
    """
    for chunk in _chunks(enumerate(rows, 1)):
        told = [(number, row, texts) for number, row in chunk if (texts := _tried(number, row, prompts, how, refuse))]
        tokens = iter(prompts.encode_all([text for *_, texts in told for text in texts]))
        for number, row, texts in told:
            ids = [next(tokens) for _ in texts]
            try:
                yield number, _examples(row, ids, prompts, how)
            except InvalidInput as error:
                refuse(number, error)


def num_tokens(example: Example) -> int:
    return sum(len(sample.ids) for sample in example)


def _chunks(rows: Iterable[tuple[int, Row]]) -> Iterator[list[tuple[int, Row]]]:
    chunk: list[tuple[int, Row]] = []
    size = 0
    for number, row in rows:
        chunk.append((number, row))
        size += sum(map(len, row.values()))
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    yield chunk


def _tried(number: int, row: Row, prompts: Prompts, how: Rendering, refuse: Refuse) -> list[str]:
    try:
        return _texts(row, prompts, how)
    except InvalidInput as error:
        refuse(number, error)
        return []


def _texts(row: Row, prompts: Prompts, how: Rendering) -> list[str]:
    """What is tokenised of a row, piece by piece."""
    if how.task_type is TaskType.CONTINUED_PRETRAIN:
        return _sections(row["text"])
    if how.task_type is TaskType.INSTRUCTION_FINETUNE:
        return [row["prompt"], row["completion"]]
    if how.task_type is TaskType.DPO:
        return [prompts.chat_text([_user(row["prompt"])]), row["chosen"], row["rejected"]]
    messages = _conversation(row)
    return _turns(messages, _learned(messages, how), prompts)


def _examples(row: Row, ids: list[list[int]], prompts: Prompts, how: Rendering) -> list[Example]:
    """The tokens of a row's texts as its examples, each within its shares of the context."""
    if how.task_type is TaskType.CONTINUED_PRETRAIN:
        return [(part,) for part in _parts([*(each for section in ids for each in section), prompts.eos_id], how)]
    is_cut = len(ids[0]) > how.max_prompt
    if how.task_type is TaskType.INSTRUCTION_FINETUNE:
        head = ids[0][-how.max_prompt :]  # a long prompt keeps its end, which the completion follows
        return [(_answered(head, ids[1], is_cut, prompts, how),)]
    if how.task_type is TaskType.DPO:
        head = prompts.chat(_within([_user(row["prompt"])], prompts, how.max_prompt)) if is_cut else ids[0]
        return [tuple(_answered(head, answer, is_cut, prompts, how) for answer in ids[1:])]
    if is_cut:
        messages = _conversation(row)
        first, *_ = turns = _learned(messages, how)
        kept = _within(messages[:first], prompts, how.max_prompt)
        turns = [len(kept) + at - first for at in turns]
        ids = prompts.encode_all(_turns([*kept, *messages[first:]], turns, prompts))
    if len(ids) == 2:
        return [(_answered(ids[0], ids[1], is_cut, prompts, how),)]
    return [(_sample(ids, is_cut, prompts, how),)]


def _parts(ids: list[int], how: Rendering) -> list[Sample]:
    """Text in contexts; every token but the first of each is learned, and the text's end is marked."""
    parts = [tuple(ids[at : at + how.max_tokens]) for at in range(0, len(ids), how.max_tokens)]
    return [Sample(ids=part, learned=((1, len(part)),)) for part in parts if len(part) > 1]


def _answered(head: list[int], answer: list[int], is_cut: bool, prompts: Prompts, how: Rendering) -> Sample:
    """A context and its one answer. A long answer keeps its first tokens, and always ends with the end of sequence."""
    ids = (*head, *answer[: how.max_completion - 1], prompts.eos_id)
    return Sample(ids=ids, learned=((len(head), len(ids)),), was_cut=is_cut or len(answer) >= how.max_completion)


def _sample(texts: list[list[int]], is_cut: bool, prompts: Prompts, how: Rendering) -> Sample:
    """Contexts and answers in turns, cut at the end."""
    ids: list[int] = []
    learned = []
    for context, answer in zip(texts[::2], texts[1::2], strict=True):
        start = len(ids) + len(context)
        ids += [*context, *answer, prompts.eos_id]
        learned.append((start, len(ids)))
    kept = tuple((start, min(end, how.max_tokens)) for start, end in learned if start < how.max_tokens)
    return Sample(ids=tuple(ids[: how.max_tokens]), learned=kept, was_cut=is_cut or len(ids) > how.max_tokens)


def _conversation(row: Row) -> list[Message]:
    """A prompt and its completion are a conversation of one turn."""
    if "messages" in row:
        messages: list[Message] = messages_of(row["messages"])
        return messages
    return [_user(row["prompt"]), {"role": "assistant", "content": row["completion"]}]


def _learned(messages: list[Message], how: Rendering) -> list[int]:
    """Where the answers stand that are learned."""
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    return turns if how.train_on == "all" else turns[-1:]


def _turns(messages: list[Message], learned: Sequence[int], prompts: Prompts) -> list[str]:
    """Context and answer in turns. All before an answer is the text that the server renders to ask for it."""
    asked = [prompts.chat_text(messages[:at]) for at in learned]
    answers = [messages[at]["content"] for at in learned]
    told = ["", *(text + answer + prompts.eos_text for text, answer in zip(asked, answers, strict=True))]
    if not all(later.startswith(sooner) for sooner, later in zip(told, asked, strict=False)):
        raise InvalidInput("the chat template renders earlier turns anew with each turn: use train_on last")
    contexts = [later.removeprefix(sooner) for sooner, later in zip(told, asked, strict=False)]
    return [text for turn in zip(contexts, answers, strict=True) for text in turn]


def _within(messages: list[Message], prompts: Prompts, limit: int) -> list[Message]:
    """The newest turns whose rendering has at most `limit` tokens, after the system's message.

    Of a lone user's message that is still too long the tail is cut, so that the template around it stays whole.
    """
    head = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(head) :]
    firsts = range(0, len(turns), 2)  # a user's and the assistant's message go together
    drop = bisect_left(firsts, True, key=lambda at: len(prompts.chat([*head, *turns[at:]])) <= limit)
    return [*head, *turns[firsts[drop] :]] if drop < len(firsts) else _shortened(head, turns[-1], prompts, limit)


def _shortened(head: list[Message], last: Message, prompts: Prompts, limit: int) -> list[Message]:
    ids = prompts.encode(last["content"])
    keep = len(ids)
    excess = len(prompts.chat([*head, last])) - limit
    while excess > 0 and (keep := keep - excess) > 0:
        cut = [*head, _user(prompts.decode(ids[:keep]))]
        excess = len(prompts.chat(cut)) - limit
    if keep <= 0:
        raise ContextTooLong(f"the prompt share of {limit} tokens has no room beside the template and system message")
    return cut


def _sections(text: str) -> list[str]:
    """A text in pieces of about SECTION_CHARACTERS, parted before white space where there is some."""
    edges = [0]
    while len(text) - edges[-1] > SECTION_CHARACTERS:
        end = edges[-1] + SECTION_CHARACTERS
        spaces = (text.rfind(space, max(edges[-1] + 1, end - 4096), end) for space in "\n ")
        edges.append(next((at for at in spaces if at > 0), end))
    return [text[start:end] for start, end in pairwise([*edges, len(text)])]


def _user(text: str) -> Message:
    return {"role": "user", "content": text}
