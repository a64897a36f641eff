"""One batch in the hands of this process: checked, answered, put together; or failed, cancelled, expired."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice
from pathlib import Path

from luthier.errors import Unavailable
from luthier.platform.batch_lines import check_lines, read_lines
from luthier.platform.batch_results import Results
from luthier.platform.batches import Batch, BatchFault, BatchStatus, Line, Report, Step
from luthier.platform.files import Purpose, StoredFile
from luthier.platform.metering import UsageRecord
from luthier.platform.settings import MIB
from luthier.platform.storage import Storage, file_sha256
from luthier.serve.batches.batch_line import LineAnswers
from luthier.serve.doors.json_size import JsonSize
from luthier.serve.metering.leases import Leases
from luthier.serve.room import Room
from luthier.serve.services import Services
from luthier.serve.threads import BATCHES, LEASES

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
MAX_REPORTED = 500
MAX_OPEN = 256
"""Lines of a batch that wait for an engine, or for its answer."""
READ_LINES = 64
"""At once, beside the loop."""
ENDS = {
    BatchStatus.FINALIZING: BatchStatus.COMPLETED,
    BatchStatus.CANCELLING: BatchStatus.CANCELLED,
    BatchStatus.IN_PROGRESS: BatchStatus.EXPIRED,
}


class BatchWork:
    """From the claim of a batch to its end."""

    def __init__(
        self,
        services: Services,
        leases: Leases,
        room: Callable[[str], Room],
        batch: Batch,
        holder: str,
        clock: Callable[[], int],
    ) -> None:
        self._verbs, self._batch, self._holder, self._clock = services.registry.batches, batch, holder, clock
        self._storage = Storage(services.settings.storage)
        self._max_bytes = services.settings.max_body_mib * MIB
        self._lines = LineAnswers(services, leases, room, batch, self._is_over)
        self._results: Results | None = None
        self._unbilled: list[UsageRecord] = []
        self._telling = asyncio.Lock()

    async def run(self) -> None:
        """Conflict when another process has the batch."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep())
                await self._work()
                keeping.cancel()
        finally:
            if self._results:
                self._results.close()

    async def _work(self) -> None:
        if self._batch.status is BatchStatus.VALIDATING:
            await self._check()
        if self._batch.status.is_final:
            return
        results = self._results = await BATCHES.run(Results, self._folder, self._batch.attempt)
        self._unbilled += await BATCHES.run(lambda: [each.usage for each in results.found() if each.usage])
        if self._batch.status is BatchStatus.IN_PROGRESS:
            await self._answer(results)
        await self._report_all()
        await self._put_together(results)

    async def _check(self) -> None:
        total, faults = await BATCHES.run(self._faults)
        if faults:
            await self._advance(Step(to=BatchStatus.FAILED, faults=faults))
        elif self._batch.status is BatchStatus.VALIDATING:
            await self._advance(Step(to=BatchStatus.IN_PROGRESS, total=total))

    def _faults(self) -> tuple[int, list[BatchFault]]:
        if not self._input.is_file():
            return 0, [BatchFault(code="invalid_file", message="The input file is missing in storage.")]
        return check_lines(self._input, self._batch.endpoint, self._max_bytes, lambda text: JsonSize().add(text))

    async def _answer(self, results: Results) -> None:
        """The lines without a result. None is begun when the batch is over; those that were begun are finished."""
        open_lines = asyncio.Semaphore(MAX_OPEN)
        async with asyncio.TaskGroup() as group:
            async for line in self._unanswered(results):
                await open_lines.acquire()
                if self._is_over():
                    return
                task = group.create_task(self._answer_line(results, line))
                task.add_done_callback(lambda _: open_lines.release())

    async def _answer_line(self, results: Results, line: Line) -> None:
        if result := await self._lines.result(line):
            results.add(result)
            if result.usage:
                self._unbilled.append(result.usage)

    async def _unanswered(self, results: Results) -> AsyncIterator[Line]:
        lines = read_lines(self._input, self._batch.endpoint, self._max_bytes)
        while some := await BATCHES.run(lambda: list(islice(lines, READ_LINES))):
            for line in some:
                if line.number not in results:
                    yield line

    async def _put_together(self, results: Results) -> None:
        if self._batch.status is BatchStatus.IN_PROGRESS and len(results) == self._batch.counts.total:
            await self._advance(Step(to=BatchStatus.FINALIZING))
        end = ENDS[self._batch.status]
        output, errors = await BATCHES.run(self._write, results, end is BatchStatus.EXPIRED)
        await self._advance(Step(to=end, output=output, errors=errors))

    def _write(self, results: Results, is_expired: bool) -> tuple[StoredFile | None, StoredFile | None]:
        lines = read_lines(self._input, self._batch.endpoint, self._max_bytes) if is_expired else ()
        expired = (self._lines.expired(line) for line in lines if line.number not in results)
        return self._file("output", results, failed=False), self._file("error", results, expired, failed=True)

    def _file(self, kind: str, results: Results, more: Iterable[str] = (), *, failed: bool) -> StoredFile | None:
        file_id = f"file-{self._batch.id.removeprefix('batch_')}-{kind}"
        path = self._storage.file(file_id)
        if not results.write(path, failed=failed, more=more):
            return None
        now, kept = self._clock(), self._batch.output_seconds
        return StoredFile(
            id=file_id,
            account=self._batch.account,
            owner=self._batch.owner,
            role=self._batch.role,
            filename=f"{self._batch.id}_{kind}.jsonl",
            purpose=Purpose.BATCH_OUTPUT,
            size=path.stat().st_size,
            sha256=file_sha256(path),
            path=str(path),
            created_on=now,
            expires_on=now + kept * 1000 if kept else None,
        )

    # what the registry hears

    async def _keep(self) -> None:
        """Renews the lease, and tells what there is."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self._try_report()

    async def _report_all(self) -> None:
        while not await self._try_report() or self._unbilled:
            await asyncio.sleep(0 if self._unbilled else REPORT_SECONDS)

    async def _try_report(self) -> bool:
        try:
            await self._report()
        except Unavailable as error:
            log.warning("batch %s is not reported yet: %s", self._batch.id, error)
            return False
        return True

    async def _report(self) -> None:
        async with self._telling:
            counts, usage = self._batch.counts, self._unbilled[:MAX_REPORTED]
            completed, failed = counts.completed, counts.failed
            if self._results:
                completed = self._results.num_completed - len(self._unbilled) + len(usage)
                failed = self._results.num_failed
            if self._results and usage:
                await BATCHES.run(self._results.sync)
            report = Report(completed=completed, failed=failed, usage=usage)
            self._batch = await LEASES.run(self._verbs.report, self._batch.id, self._holder, report)
            del self._unbilled[: len(usage)]

    async def _advance(self, step: Step) -> None:
        async with self._telling:
            self._batch = await LEASES.run(self._verbs.advance, self._batch.id, self._holder, step)

    # where it stands

    def _is_over(self) -> bool:
        return self._batch.status is BatchStatus.CANCELLING or self._clock() >= self._batch.expires_on

    @property
    def _input(self) -> Path:
        return self._storage.file(self._batch.input_file_id)

    @property
    def _folder(self) -> Path:
        return self._storage.batches / self._batch.id
