"""SNOWFLAKE.ACCOUNT_USAGE: what a statement names of it, opened for the engine."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from luthier.platform.keys import Endpoint, Session
from luthier.platform.sql.sql_engine import TableFile
from luthier.platform.storage import Storage
from luthier.serve.dialects.snowflake_audit import AUDIT_VIEW
from luthier.serve.dialects.snowflake_limits import RATE_VIEW
from luthier.serve.dialects.usage_files import FILE_VIEWS
from luthier.serve.dialects.usage_views import VIEWS
from luthier.serve.dialects.view_files import SCHEMA
from luthier.serve.services import Services

AUDIT = "LUTHIER_AUDIT_HISTORY"
TABLES = {**VIEWS, "CORTEX_REST_API_RATE_LIMIT_POLICIES": RATE_VIEW}
FILES = {**FILE_VIEWS, AUDIT: AUDIT_VIEW}


class Opened(NamedTuple):
    views: dict[str, pa.Table]
    files: list[TableFile]
    """There until the statement ends."""


@contextmanager
def account_usage(services: Services, session: Session, statement: str) -> Iterator[Opened]:
    """Of a schema of which it names no view, all without rows: so the error can say which one may have been meant."""
    words, caller = set(re.findall(r"\w+", statement.upper())), session.caller
    if "ACCOUNT_USAGE" not in words:
        yield Opened({}, [])
        return
    session.check(Endpoint.USAGE, False)
    if AUDIT in words:
        session.check(Endpoint.ADMIN, False)
    views = {name: view.table(services, caller) for name, view in TABLES.items() if name in words}
    if words.isdisjoint((*TABLES, *FILES)):
        views = {name: pa.table({"none": pa.array([], pa.string())}) for name in (*TABLES, *FILES)}
    with tempfile.TemporaryDirectory(prefix="views-", dir=Storage(services.settings.storage).scratch()) as folder:
        to = Path(folder)
        files = [view.write(services, caller, name, statement, to) for name, view in FILES.items() if name in words]
        yield Opened({f"{SCHEMA}.{name}": table for name, table in views.items()}, files)
