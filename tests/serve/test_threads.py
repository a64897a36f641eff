"""Threads by kind of work: what one kind waits for holds up no other, and nothing takes those that Ray gives."""

import ast
import asyncio
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest

from luthier import serve
from luthier.serve.threads import Threads

FOREIGN = {"to_thread", "run_in_executor", "ThreadPoolExecutor"}
OWNERS = {"threads.py", "worker.py"}
"""The second runs in a process of vLLM's."""
said: ContextVar[str] = ContextVar("said")


@pytest.mark.parametrize("file", sorted(Path(serve.__file__).parent.rglob("*.py")), ids=lambda file: file.stem)
def test_all_that_blocks_names_its_kind(file: Path) -> None:
    if file.name not in OWNERS:
        named = {node.attr if isinstance(node, ast.Attribute) else node.id for node in _names(file)}
        assert not named & FOREIGN


def _names(file: Path) -> list[ast.Attribute | ast.Name]:
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute | ast.Name)]


def test_one_kind_waits_for_no_other() -> None:
    one, other, may_go = Threads("one", 2), Threads("other", 1), threading.Event()

    async def story() -> None:
        waiting = [asyncio.create_task(one.run(may_go.wait, 20)) for _ in range(5)]
        assert await other.run(lambda: 7) == 7
        assert not any(task.done() for task in waiting)
        may_go.set()
        assert await asyncio.gather(*waiting) == [True] * 5

    asyncio.run(story())


def test_a_call_knows_what_its_asker_does() -> None:
    async def story() -> None:
        said.set("a word")
        assert await Threads("one", 1).run(said.get) == "a word"

    asyncio.run(story())
