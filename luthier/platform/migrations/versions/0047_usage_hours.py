"""What was used in each hour, kept beside the ledger: to add up a million records takes a second."""

import sqlalchemy as sa
from alembic import op

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None

HOUR_MS = 3_600_000
KEY = ("account", "kind", "role", "time")
TOKENS = ("prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens")
SUMS = ("records", *TOKENS, "amount_ucr", "stored_bytes")
COLUMNS = ", ".join((*KEY, *SUMS))
MORE = "ON CONFLICT (account, kind, role, time) DO UPDATE SET " + ", ".join(
    f"{name} = usage_hours.{name} + excluded.{name}" for name in SUMS
)
ADDED = ", ".join(f"SUM({name})" for name in SUMS[1:])
BY_HOUR = f"INSERT INTO usage_hours ({COLUMNS}) SELECT account, kind, role, time - time % {HOUR_MS}, COUNT(*), {ADDED}"
GROUPED = f"GROUP BY account, kind, role, time - time % {HOUR_MS}"


def upgrade() -> None:
    op.create_table(
        "usage_hours",
        *(sa.Column(name, sa.String, primary_key=True) for name in KEY[:3]),
        sa.Column("time", sa.BigInteger, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in SUMS),
    )
    op.execute(f"{BY_HOUR} FROM usage {GROUPED}")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION add_up_usage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"{BY_HOUR} FROM added {GROUPED} ORDER BY 1, 2, 3, 4 {MORE}; RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER usage_added_up AFTER INSERT ON usage REFERENCING NEW TABLE AS added "
            "FOR EACH STATEMENT EXECUTE FUNCTION add_up_usage()"
        )
    else:
        values = ", ".join(f"NEW.{name}" for name in SUMS[1:])
        row = f"NEW.account, NEW.kind, NEW.role, NEW.time - NEW.time % {HOUR_MS}, 1, {values}"
        op.execute(
            f"CREATE TRIGGER usage_added_up AFTER INSERT ON usage BEGIN "
            f"INSERT INTO usage_hours ({COLUMNS}) VALUES ({row}) {MORE}; END"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER usage_added_up ON usage")
        op.execute("DROP FUNCTION add_up_usage()")
    else:
        op.execute("DROP TRIGGER usage_added_up")
    op.drop_table("usage_hours")
