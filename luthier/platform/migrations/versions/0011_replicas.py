"""Which models are replicas of another region's; and which base models a region has, for whoever replicates to it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("replica_of", sa.String, nullable=True))
    op.create_table(
        "region_base_models",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("region", sa.String, nullable=False),
        sa.Column("revision", sa.String, nullable=False),
        sa.Column("is_served", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("region_base_models")
    op.drop_column("models", "replica_of")
