"""Tokens that a job evaluated, in its bill and beside it."""

import sqlalchemy as sa
from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("usage", sa.Column("evaluated_tokens", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("evaluated_tokens", sa.BigInteger, nullable=True))


def downgrade() -> None:
    for table in ("usage", "jobs"):
        op.drop_column(table, "evaluated_tokens")
