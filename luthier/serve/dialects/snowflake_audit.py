"""SNOWFLAKE.ACCOUNT_USAGE.LUTHIER_AUDIT_HISTORY: the audit as a view. The name is ours: Snowflake's fit none."""

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.audit import AuditRow
from luthier.platform.registry.audit import MAX_PAGE, Search
from luthier.serve.services import Services

AUDIT_VIEW = "SNOWFLAKE.ACCOUNT_USAGE.LUTHIER_AUDIT_HISTORY"
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


def audit_views(services: Services, caller: Caller, text: str) -> dict[str, pa.Table]:
    """The view, where the statement names it."""
    if AUDIT_VIEW.rpartition(".")[2] not in text.upper():
        return {}
    rows = _all(services, caller)
    columns = {name: pa.array([getattr(row, field) for row in rows], kind) for name, (field, kind) in COLUMNS.items()}
    return {AUDIT_VIEW: pa.table(columns)}


def _all(services: Services, caller: Caller) -> list[AuditRow]:
    """Newest first."""
    rows: list[AuditRow] = []
    while True:
        before = rows[-1].number if rows else None
        page = services.registry.audit.show(caller, Search(before=before, limit=MAX_PAGE))
        rows += page
        if len(page) < MAX_PAGE:
            return rows
