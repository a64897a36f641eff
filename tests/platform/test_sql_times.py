"""What is read of a view is never less than its statement asks for, and no more where that is plain."""

from datetime import UTC, datetime

import pytest

from luthier.platform.jobs import now_ms
from luthier.platform.sql.sql_times import FOREVER_MS, SLACK_MS, Times, times_of

DAY_MS = 86_400_000
NOV, DEC = (int(datetime(2026, month, 1, tzinfo=UTC).timestamp() * 1000) for month in (11, 12))
SINCE, BOTH = Times(NOV - SLACK_MS), Times(NOV - SLACK_MS, DEC + SLACK_MS)


def times(statement: str) -> Times:
    return times_of(statement, "V", ("START_TIME", "END_TIME"))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("start_time >= '2026-11-01'", SINCE),
        ("'2026-11-01' < START_TIME", SINCE),
        ("START_TIME > '2026-11-01'::TIMESTAMP AND END_TIME <= '2026-12-01 00:00:00+00'", BOTH),
        ("(tokens > 5 AND (START_TIME BETWEEN '2026-11-01' AND TO_TIMESTAMP('2026-12-01 00:00:00')))", BOTH),
        ("START_TIME >= DATEADD(day, 1, '2026-10-31'::DATE) AND x IN (SELECT 1)", SINCE),
        ("a.START_TIME = '2026-11-01'", Times(NOV - SLACK_MS, NOV + SLACK_MS)),
        ("START_TIME >= '2026-11-01' OR tokens > 5", Times()),
        ("NOT START_TIME >= '2026-11-01'", Times()),
        ("USAGE_TIME >= '2026-11-01'", Times()),
        ("b.START_TIME >= '2026-11-01'", Times()),
        ("START_TIME >= (SELECT MAX(START_TIME) FROM b)", Times()),
        ("START_TIME >= RANDOM()::VARCHAR", Times()),
        ("START_TIME >= 'last week'", Times()),
        ("START_TIME >= END_TIME", Times()),
    ],
)
def test_what_where_says(where: str, told: Times) -> None:
    assert times(f"SELECT COUNT(*) FROM SNOWFLAKE.ACCOUNT_USAGE.V AS a WHERE {where}") == told


def test_a_week_ago() -> None:
    told = times("SELECT * FROM V WHERE START_TIME >= DATEADD(day, -7, CURRENT_TIMESTAMP())")
    assert abs(told.since - (now_ms() - 7 * DAY_MS - SLACK_MS)) < 60_000
    assert told.until == FOREVER_MS


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT * FROM V", Times()),
        ("SELECT * FROM a WHERE START_TIME >= '2026-11-01'", Times()),
        ("SELECT * FROM (SELECT * FROM V) WHERE START_TIME >= '2026-11-01'", Times()),
        ("SELECT * FROM V WHERE START_TIME >= '2026-11-01' UNION ALL SELECT * FROM V", Times()),
        ("WITH x AS (SELECT * FROM V WHERE START_TIME > '2026-11-01') SELECT * FROM x", SINCE),
        ("SELECT * FROM V, a WHERE START_TIME >= '2026-11-01'", Times()),
        ("SELECT * FROM a LEFT JOIN V ON a.x = V.x WHERE V.START_TIME >= '2026-11-01'", SINCE),
        (
            "SELECT (SELECT MAX(x) FROM V WHERE START_TIME < '2026-12-01') FROM V WHERE START_TIME > '2026-11-01'",
            Times(),
        ),
    ],
)
def test_each_place_where_the_view_is_read(statement: str, told: Times) -> None:
    assert times(statement) == told
