"""Delivers notices to webhooks: signed, retried by the outbox's times, and only to addresses that may be reached.

Redirects are not followed, and of an answer nothing but its status is read.
"""

import asyncio
import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol

import httpx
from standardwebhooks import Webhook as Signer

from luthier.errors import InvalidInput
from luthier.platform.addresses import Addresses
from luthier.platform.webhooks import MAX_UNDER_WAY, Delivery, Outcome, body_of

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
MOST_SECONDS = 10.0
"""For one attempt, whatever the server does."""
GONE = 410


class Outbox(Protocol):
    def due(self, under_way: Collection[str] = ()) -> list[Delivery]: ...

    def delivered(self, number: int, attempt: int, outcome: Outcome) -> None: ...

    def secret(self, id: str) -> str: ...


class Deliverer:
    """Sends what is due, to each webhook one after another; belongs to one event loop."""

    def __init__(self, outbox: Outbox, addresses: Addresses) -> None:
        self._outbox, self._addresses = outbox, addresses
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._names = ThreadPoolExecutor(MAX_UNDER_WAY, thread_name_prefix="names")
        """Each attempt has a thread: names that are slow to resolve keep no other waiting."""

    async def run(self) -> None:
        """As long as the process runs."""
        while True:
            try:
                await self.round()
            except Exception as error:  # whatever it is, what is due stays due; a loop that ended would strand it
                log.warning("webhooks wait: %s", error)
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self) -> list[asyncio.Task[None]]:
        """Begins what is due, and waits for none of it."""
        due = await asyncio.to_thread(self._outbox.due, list(self._under_way))
        return [self._begin(each) for each in due]

    def _begin(self, delivery: Delivery) -> asyncio.Task[None]:
        task = asyncio.create_task(self._deliver(delivery))
        self._under_way[delivery.webhook.id] = task
        task.add_done_callback(lambda _: self._under_way.pop(delivery.webhook.id))
        return task

    async def _deliver(self, delivery: Delivery) -> None:
        outcome = await self._attempt(delivery)
        if not outcome.is_taken:
            log.info("notice %s to %s: %s", delivery.notice.id, delivery.webhook.id, outcome.told)
        try:
            await asyncio.to_thread(self._outbox.delivered, delivery.number, delivery.attempt, outcome)
        except Exception as error:  # whatever it is, it stays due, and is sent once more
            log.warning("the outcome of notice %s is not kept: %s", delivery.notice.id, error)

    async def _attempt(self, delivery: Delivery) -> Outcome:
        try:
            async with asyncio.timeout(MOST_SECONDS):
                status = await self._post(delivery)
        except TimeoutError:
            return Outcome(told=f"no answer within {MOST_SECONDS:g} s")
        except InvalidInput as error:
            return Outcome(told=error.message)
        except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            return Outcome(told=f"{type(error).__name__}: {error}")
        is_taken = 200 <= status < 300
        return Outcome(is_taken=is_taken, is_gone=status == GONE, told="" if is_taken else f"status {status}")

    async def _post(self, delivery: Delivery) -> int:
        url = httpx.URL(delivery.webhook.url)
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._names, self._addresses.check, delivery.webhook.url)
        secret = await asyncio.to_thread(self._outbox.secret, delivery.webhook.id)
        body, now = body_of(delivery.notice), datetime.now(UTC)
        headers = {
            "host": url.netloc.decode("ascii"),
            "content-type": "application/json",
            "user-agent": "luthier-webhooks",
            "webhook-id": delivery.notice.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Signer(secret).sign(delivery.notice.id, now, body),
        }
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=MOST_SECONDS) as client:
            request = client.build_request("POST", url.copy_with(host=addresses[0]), content=body, headers=headers)
            request.extensions["sni_hostname"] = url.host
            response = await client.send(request, stream=True)
            await response.aclose()
            return response.status_code
