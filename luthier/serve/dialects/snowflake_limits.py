"""SNOWFLAKE.ACCOUNT_USAGE.CORTEX_REST_API_RATE_LIMIT_POLICIES: the rate limits of models, in Snowflake's columns.

Snowflake sets them itself, so SQL has no words to; those of keys have no column there (`luthier limits list`).
"""

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.serve.services import Services

RATE_VIEW = "SNOWFLAKE.ACCOUNT_USAGE.CORTEX_REST_API_RATE_LIMIT_POLICIES"
COLUMNS = {"MODEL_NAME": ("model", pa.string()), "RPM": ("requests", pa.int64()), "TPM": ("tokens", pa.int64())}


def limit_views(services: Services, caller: Caller, text: str) -> dict[str, pa.Table]:
    """The view, where the statement names it. NULL: of these no limit."""
    if RATE_VIEW.rpartition(".")[2] not in text.upper():
        return {}
    rows = services.registry.rates.policies(caller)
    columns = {name: pa.array([getattr(row, field) for row in rows], kind) for name, (field, kind) in COLUMNS.items()}
    return {RATE_VIEW: pa.table(columns)}
