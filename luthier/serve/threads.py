"""Threads for what blocks, each kind its own: what one kind waits for holds up no other.

A replica of Ray Serve has five for everything that names none. A registry that says nothing keeps each call for 30 s.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Threads:
    """Of one kind. They are started when they are needed."""

    def __init__(self, name: str, num: int) -> None:
        self.num = num
        self._pool = ThreadPoolExecutor(num, thread_name_prefix=name)

    async def run(self, call: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        """As asyncio.to_thread."""
        asked = partial(copy_context().run, call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, asked)

    def begin(self, call: Callable[[], None]) -> None:
        """What nobody waits for, and never fails."""
        self._pool.submit(call)


EPOCH = Threads("epoch", 2)
"""Questions to the registry that no request waits for: whether anything has changed, and what was known."""
LEASES = Threads("leases", 16)
"""Of the registry: credits, rates and batches that this process holds, to be renewed in time."""
REGISTRY = Threads("registry", 32)
"""All else that it is asked and told: by who is new, of what was refused, used and proved."""
PROVIDER = Threads("provider", 1)
"""An identity provider's keys."""
CONTROLLER = Threads("controller", 8)
"""Ray Serve's: its applications."""
PROMPTS = Threads("prompts", 4)
"""Long ones: read, and brought to tokens."""
ADAPTERS = Threads("adapters", 16)
"""Their files on the node's disk, and of weights of their own in storage."""
STORAGE = Threads("storage", 16)
"""What engines have of storage. One that hangs keeps them all; what is on the disk does not wait for it."""
UPLOADS = Threads("uploads", 8)
"""Files that were sent, and what is made of them."""
BATCHES = Threads("batches", 24)
"""Their files. Each of eight may look through one that is large while it keeps results, and one thread sweeps."""
SQL = Threads("sql", 32)
"""Statements; they wait for answers, and those for all of the above."""
ANSWERS = Threads("answers", 8)
"""Of statements, on their way from the disk."""
