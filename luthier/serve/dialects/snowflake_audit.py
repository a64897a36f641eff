"""SNOWFLAKE.ACCOUNT_USAGE.LUTHIER_AUDIT_HISTORY: the audit as a view. The name is ours: Snowflake's fit none."""

from collections.abc import Iterator

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.registry.audit import MAX_PAGE, Search
from luthier.platform.sql.sql_times import FOREVER_MS, Times
from luthier.serve.dialects.view_files import FileView, Row, by_pages, by_time
from luthier.serve.services import Services

COLUMNS = {
    "EVENT_NUMBER": ("number", pa.int64()),
    "EVENT_TIME": ("time", pa.timestamp("ms", tz="UTC")),
    "USER_NAME": ("user", pa.string()),
    "ROLE_NAME": ("role", pa.string()),
    "KEY_ID": ("key", pa.string()),
    "ACTION": ("action", pa.string()),
    "OBJECT_KIND": ("object_kind", pa.string()),
    "OBJECT_NAME": ("object_name", pa.string()),
    "REQUEST_ID": ("id", pa.string()),
    "CLIENT_IP": ("source", pa.string()),
    "IS_ALLOWED": ("is_allowed", pa.bool_()),
    "HTTP_STATUS": ("status", pa.int64()),
    "REASON": ("reason", pa.string()),
    "EVENT_COUNT": ("count", pa.int64()),
    "HASH": ("hash", pa.string()),
}


def _rows(services: Services, caller: Caller, times: Times) -> Iterator[Row]:
    """Newest first."""
    search = Search(since=max(0, times.since), until=max(0, min(times.until, FOREVER_MS)), limit=MAX_PAGE)
    while True:
        page = services.registry.audit.show(caller, search)
        for row in page:
            yield {name: getattr(row, field) for name, (field, _) in COLUMNS.items()}
        if len(page) < MAX_PAGE:
            return
        search = search.model_copy(update={"before": page[-1].number})


_KEPT = pa.schema([(name, kind) for name, (_, kind) in COLUMNS.items()])

AUDIT_VIEW = FileView(
    kept=_KEPT,
    batches=by_pages(_rows, _KEPT),
    times=("EVENT_TIME",),
    narrow=by_time("EVENT_TIME"),
)
