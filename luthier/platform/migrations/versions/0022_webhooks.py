"""Notices of budgets and balances, the webhooks that they go to, and how far each has come."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False, index=True),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("types", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("ended_on", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "notices",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False, index=True),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("notice", sa.String, sa.ForeignKey("notices.id"), nullable=False),
        sa.Column("webhook", sa.String, sa.ForeignKey("webhooks.id"), nullable=False, index=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_on", sa.BigInteger, nullable=True, index=True),
        sa.Column("taken_on", sa.BigInteger, nullable=True),
        sa.Column("given_up_on", sa.BigInteger, nullable=True),
        sa.Column("told", sa.String, nullable=False),
        sa.UniqueConstraint("notice", "webhook"),
    )
    op.add_column("limits", sa.Column("alert_ucr", sa.BigInteger, nullable=True))


def downgrade() -> None:
    op.drop_column("limits", "alert_ucr")
    for name in ("deliveries", "notices", "webhooks"):
        op.drop_table(name)
