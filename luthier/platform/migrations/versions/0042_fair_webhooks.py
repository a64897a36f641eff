"""Webhooks rest after a failure, and are looked up one by one; what was told is known of the limit itself."""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

TOLD_ON = ("refused_on", "low_on", "overdrawn_on")
WAITING = sa.text("next_on IS NOT NULL")
INDEXES = {
    "notices_by_number": ("notices", ["account", "number"]),
    "notices_by_type": ("notices", ["account", "type", "time"]),
    "notices_by_time": ("notices", ["time"]),
}
REPLACED = {"ix_notices_account": ("notices", ["account"]), "ix_deliveries_next_on": ("deliveries", ["next_on"])}


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("failures", sa.Integer, nullable=False, server_default="0"))
    op.add_column("webhooks", sa.Column("rests_until", sa.BigInteger, nullable=False, server_default="0"))
    for name in TOLD_ON:
        op.add_column("limits", sa.Column(name, sa.BigInteger, nullable=True))
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)
    by_webhook = ["webhook", "next_on", "number"]
    op.create_index("deliveries_waiting", "deliveries", by_webhook, sqlite_where=WAITING, postgresql_where=WAITING)
    for name, (table, _) in REPLACED.items():
        op.drop_index(name, table)


def downgrade() -> None:
    for name, (table, columns) in REPLACED.items():
        op.create_index(name, table, columns)
    op.drop_index("deliveries_waiting", "deliveries")
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    for name in TOLD_ON:
        op.drop_column("limits", name)
    for name in ("failures", "rests_until"):
        op.drop_column("webhooks", name)
