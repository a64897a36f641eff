"""SNOWFLAKE.ACCOUNT_USAGE.CORTEX_REST_API_RATE_LIMIT_POLICIES: the rate limits of models, in Snowflake's columns.

Snowflake sets them itself, so SQL has no words to; those of keys have no column there (`luthier limits list`).
"""

from luthier.platform.access import Caller
from luthier.serve.dialects.usage_views import Row, View
from luthier.serve.services import Services


def _rows(services: Services, caller: Caller) -> list[Row]:
    """NULL: of these no limit."""
    limits = services.registry.rates.policies(caller)
    return [{"MODEL_NAME": each.model, "RPM": each.requests, "TPM": each.tokens} for each in limits]


RATE_VIEW = View("MODEL_NAME TEXT, RPM NUMBER, TPM NUMBER", _rows)
