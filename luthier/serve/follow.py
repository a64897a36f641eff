"""A job as a stream of server-sent events: `event: event` for each event, `event: progress` for each change."""

import asyncio
import json
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent

from luthier.errors import Unavailable
from luthier.platform.access import Caller
from luthier.platform.jobs import JobNews
from luthier.platform.registry.jobs import Jobs
from luthier.platform.wire import progress_news
from luthier.serve.threads import REGISTRY

LOOK_SECONDS = 1.0
"""Between two looks at the job; each is one call to the registry."""
MAX_LOOKS = 600
"""Of one stream: whoever follows asks again, and shows his key again."""
KEEP_ALIVE_SECONDS = 15


def stream(jobs: Jobs, caller: Caller, first: JobNews, after: int) -> EventSourceResponse:
    """`first` is the news after an event. Ends with the job, or sooner, to be asked for again."""
    return EventSourceResponse(_messages(jobs, caller, first, after), ping=KEEP_ALIVE_SECONDS)


async def _messages(jobs: Jobs, caller: Caller, news: JobNews, after: int) -> AsyncIterator[ServerSentEvent]:
    shown = ""
    for _ in range(MAX_LOOKS):
        for event in news.events:
            after = event.id
            yield ServerSentEvent(event="event", id=str(event.id), data=event.model_dump_json())
        progress = json.dumps(progress_news(news.job))
        if progress != shown:
            shown = progress
            yield ServerSentEvent(event="progress", data=progress)
        if news.job.status.is_final:
            return
        await asyncio.sleep(LOOK_SECONDS)
        try:
            news = await REGISTRY.run(jobs.news, caller, news.job.id, after)
        except Unavailable:
            return
