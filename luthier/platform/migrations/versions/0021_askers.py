"""Which key asked for a job or a batch; leases are kept until a time of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

GRACE_MS = 3_600_000
"""What leases were kept for beyond `until`, before that was in it."""


def upgrade() -> None:
    for table in ("jobs", "batches"):
        op.add_column(table, sa.Column("key", sa.String, nullable=True))
    op.execute(f"UPDATE reservations SET until = until + {GRACE_MS} WHERE until IS NOT NULL")


def downgrade() -> None:
    op.execute(f"UPDATE reservations SET until = until - {GRACE_MS} WHERE until IS NOT NULL")
    for table in ("jobs", "batches"):
        op.drop_column(table, "key")
