"""What engines found of the versions that they loaded."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "proofs",
        sa.Column("number", sa.Integer, sa.ForeignKey("versions.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("checked_on", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("proofs")
