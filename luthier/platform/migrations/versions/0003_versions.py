"""Which version a model's name means: default, canary, aliases; who changed it; what was dropped and when."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("default_version", sa.Integer, nullable=False, server_default="1"))
    op.add_column("models", sa.Column("last_version", sa.Integer, nullable=False, server_default="1"))
    op.add_column("models", sa.Column("promotion", sa.Integer, nullable=True))
    op.add_column("models", sa.Column("canary_version", sa.Integer, nullable=True))
    op.add_column("models", sa.Column("canary_share", sa.Float, nullable=True))
    op.add_column("usage", sa.Column("version", sa.Integer, nullable=True))
    op.create_table(
        "aliases",
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("alias", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.create_table(
        "model_changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("verb", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=True),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("was", sa.Integer, nullable=True),
        sa.Column("before", sa.Integer, nullable=True),
    )
    op.create_index("model_changes_by_model", "model_changes", ["account", "model", "id"])
    op.create_table(
        "dropped",
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for name in ("dropped", "model_changes", "aliases"):
        op.drop_table(name)
    op.drop_column("usage", "version")
    for name in ("canary_share", "canary_version", "promotion", "last_version", "default_version"):
        op.drop_column("models", name)
