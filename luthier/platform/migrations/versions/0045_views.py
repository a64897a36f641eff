"""Views."""

import sqlalchemy as sa
from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "views",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("database", "schema", "name", "display")),
        *(sa.Column(name, sa.String, nullable=False) for name in ("owner", "role")),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        *(sa.Column(name, sa.JSON, nullable=False) for name in ("reads", "gives", "columns")),
        sa.Column("comment", sa.String, nullable=False),
        sa.Column("is_secure", sa.Boolean, nullable=False),
        sa.UniqueConstraint("account", "database", "schema", "name"),
    )


def downgrade() -> None:
    op.drop_table("views")
    op.execute("DELETE FROM grants WHERE kind = 'VIEW' OR privilege = 'CREATE VIEW'")
