"""Bytes in usage records; indexes that keep the registry's answers flat."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INDEXES = {
    "jobs_by_census": ("jobs", ["account", "status"]),
    "jobs_by_speed": ("jobs", ["base_model", "status", "finished_on"]),
    "jobs_by_end": ("jobs", ["finished_on"]),
    "usage_by_number": ("usage", ["account", "id"]),
}


def upgrade() -> None:
    op.add_column("usage", sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0"))
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    op.execute("DELETE FROM usage WHERE kind = 'storage'")
    op.drop_column("usage", "stored_bytes")
