"""Whether an account keeps anything, or dropped it since its last bill, is found by an index."""

from alembic import op

revision = "0050"
down_revision = "0048"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("storage_spans_by_account", "storage_spans", ["account", "until"])


def downgrade() -> None:
    op.drop_index("storage_spans_by_account", "storage_spans")
