"""The hours of PUBLIC are kept by user, who alone sees them."""

import sqlalchemy as sa
from alembic import op

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None

HOUR_MS = 3_600_000
TOKENS = ("prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens")
SUMS = ("records", *TOKENS, "amount_ucr", "stored_bytes")


def upgrade() -> None:
    _keep_hours(by_user=True)


def downgrade() -> None:
    _keep_hours(by_user=False)


def _keep_hours(by_user: bool) -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    op.execute("DROP TRIGGER usage_added_up" + (" ON usage" if is_postgres else ""))
    op.drop_table("usage_hours")
    key = _key(by_user)
    op.create_table(
        "usage_hours",
        *(sa.Column(name, sa.BigInteger if name == "time" else sa.String, primary_key=True) for name in key),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in SUMS),
    )
    names = ", ".join(f'"{name}"' for name in key)
    more = ", ".join(f"{name} = usage_hours.{name} + excluded.{name}" for name in SUMS)
    insert = f"INSERT INTO usage_hours ({names}, {', '.join(SUMS)})"
    added_up = ", ".join(f"SUM({name})" for name in SUMS[1:])
    by_hour = f"{insert} SELECT {', '.join(key.values())}, COUNT(*), {added_up} FROM"
    grouped, again = f"GROUP BY {', '.join(key.values())}", f"ON CONFLICT ({names}) DO UPDATE SET {more}"
    op.execute(f"{by_hour} usage {grouped}")
    if is_postgres:
        ordered = ", ".join(str(number + 1) for number in range(len(key)))  # two at once lock rows in one order
        op.execute(
            f"CREATE OR REPLACE FUNCTION add_up_usage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"{by_hour} added {grouped} ORDER BY {ordered} {again}; RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER usage_added_up AFTER INSERT ON usage REFERENCING NEW TABLE AS added "
            "FOR EACH STATEMENT EXECUTE FUNCTION add_up_usage()"
        )
    else:
        new = ", ".join((*_key(by_user, "NEW.").values(), "1", *(f"NEW.{name}" for name in SUMS[1:])))
        op.execute(f"CREATE TRIGGER usage_added_up AFTER INSERT ON usage BEGIN {insert} VALUES ({new}) {again}; END")


def _key(by_user: bool, row: str = "") -> dict[str, str]:
    """Columns of an hour, and what each is of a record."""
    user = {"user": f"CASE WHEN {row}role = 'PUBLIC' THEN {row}\"user\" ELSE '' END"} if by_user else {}
    kept = {name: f"{row}{name}" for name in ("account", "kind", "role")}
    return {**kept, **user, "time": f"{row}time - {row}time % {HOUR_MS}"}
