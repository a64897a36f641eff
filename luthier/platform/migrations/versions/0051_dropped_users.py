"""Names of users who were dropped: no token makes them anew."""

import sqlalchemy as sa
from alembic import op

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dropped_users",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("dropped_on", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("dropped_users")
