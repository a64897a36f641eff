"""Rate limits in headers of answers, as OpenAI's clients read them."""

from collections.abc import Mapping

from luthier.errors import RateLimited
from luthier.platform.rates import Meter, RateState


def rate_headers(state: RateState) -> dict[str, str]:
    """Of a unit without a limit there are none."""
    headers = {}
    meters: Mapping[str, Meter | None] = state._asdict()
    for unit, meter in meters.items():
        if meter:
            headers[f"x-ratelimit-limit-{unit}"] = str(meter.limit)
            headers[f"x-ratelimit-remaining-{unit}"] = str(meter.remaining)
            headers[f"x-ratelimit-reset-{unit}"] = f"{meter.reset_seconds:g}s"
    return headers


def refusal_headers(error: RateLimited) -> dict[str, str]:
    """What no minute has room for need not be sent again; OpenAI's clients would."""
    told = rate_headers(error.rates) if isinstance(error.rates, RateState) else {}
    return {**told, "x-should-retry": "false"} if error.is_final else told
