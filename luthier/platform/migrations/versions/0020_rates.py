"""Rate limits, and what is leased of each minute's allowance."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0011"
branch_labels = None
depends_on = None

NAME = ("account", "key", "model", "unit")


def upgrade() -> None:
    op.create_table(
        "rate_limits",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        *(sa.Column(name, sa.String, primary_key=True) for name in NAME[1:]),
        sa.Column("allowed", sa.BigInteger, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.CheckConstraint("allowed >= 0"),
        sa.CheckConstraint("key <> '' OR model <> ''"),
    )
    op.create_table(
        "rate_leases",
        *(sa.Column(name, sa.String, primary_key=True) for name in NAME),
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
        sa.Column("holder", sa.String, primary_key=True),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount >= 0"),
    )


def downgrade() -> None:
    op.drop_table("rate_leases")
    op.drop_table("rate_limits")
