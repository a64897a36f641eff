"""Limits on what accounts, their roles and users spend; top-ups; what is reserved of a limit."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("granted_ucr", sa.BigInteger, nullable=False),
        sa.Column("spent_ucr", sa.BigInteger, nullable=False),
        sa.Column("reserved_ucr", sa.BigInteger, nullable=False),
        sa.Column("overrun_ucr", sa.BigInteger, nullable=False),
        sa.Column("is_hard", sa.Boolean, nullable=False),
        sa.Column("period", sa.String, nullable=False),
        sa.Column("period_began", sa.BigInteger, nullable=False),
        sa.Column("passed_on", sa.BigInteger, nullable=True),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.CheckConstraint("granted_ucr >= 0 AND spent_ucr >= 0 AND reserved_ucr >= 0 AND overrun_ucr >= 0"),
        sa.CheckConstraint("scope <> '' OR spent_ucr + reserved_ucr <= granted_ucr + overrun_ucr"),
    )
    op.create_table(
        "topups",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("amount_ucr", sa.BigInteger, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account", "key"),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("holder", sa.String, nullable=False, index=True),
        sa.Column("amount_ucr", sa.BigInteger, nullable=False),
        sa.Column("spent_ucr", sa.BigInteger, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=True, index=True),
        sa.CheckConstraint("0 <= spent_ucr AND spent_ucr <= amount_ucr"),
    )
    op.create_index("reservations_by_account", "reservations", ["account", "scope"])


def downgrade() -> None:
    for name in ("reservations", "topups", "limits"):
        op.drop_table(name)
