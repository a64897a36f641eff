"""Views whose rows may be as many as there are records: written to a file page by page, which the engine reads.

So a statement holds no more of them in memory than a page, and the engine what its limit allows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.errors import InvalidSql
from luthier.platform.access import Caller
from luthier.platform.names import parse_name
from luthier.platform.sql.sql_engine import TableFile
from luthier.platform.sql.sql_files import literal
from luthier.platform.sql.sql_times import Times, times_of
from luthier.serve.services import Services

MAX_ROWS = 1_000_000
PAGE = 10_000
SCHEMA = "SNOWFLAKE.ACCOUNT_USAGE"

Row = dict[str, Any]
Rows = Callable[[Services, Caller, Times], Iterable[Row]]
Batches = Callable[[Services, Caller, Times], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class FileView:
    kept: pa.Schema
    """Of the file."""
    batches: Batches
    select: str = "SELECT * FROM {rows}"
    """What makes the view's rows of the file's, of which some may belong together."""
    times: tuple[str, ...] = ()
    """Columns by which the view is narrowed."""
    narrow: str = ""
    """What to do when it has too many rows."""

    def write(self, services: Services, caller: Caller, name: str, statement: str, folder: Path) -> TableFile:
        path = folder / f"{name}.parquet"
        batches, num_rows = self.batches(services, caller, times_of(statement, name, self.times)), 0
        with pq.ParquetWriter(path, self.kept) as writer:
            for batch in batches:
                num_rows += batch.num_rows
                if num_rows > MAX_ROWS:
                    raise InvalidSql(f"{name} has more than {MAX_ROWS:,} rows to be read. {self.narrow}")
                writer.write_batch(batch)
        select = self.select.replace("{region}", literal(services.settings.region))
        return TableFile(parse_name(f"{SCHEMA}.{name}", "", ""), path, select)


def by_time(column: str) -> str:
    return f"Narrow it by time, such as WHERE {column} >= DATEADD(day, -7, CURRENT_TIMESTAMP())."


def by_pages(rows: Rows, kept: pa.Schema) -> Batches:
    """Of rows one by one."""

    def batches(services: Services, caller: Caller, times: Times) -> Iterator[pa.RecordBatch]:
        left = iter(rows(services, caller, times))
        while some := list(islice(left, PAGE)):
            yield pa.RecordBatch.from_pylist(some, kept)

    return batches
