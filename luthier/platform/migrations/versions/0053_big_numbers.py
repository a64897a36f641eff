"""What counts up with the rows has 64 bits on PostgreSQL too: it had 32, and a ledger passes that."""

import sqlalchemy as sa
from alembic import op

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None

COUNTED = {
    **dict.fromkeys(("events", "grants", "model_changes", "models", "share_grants", "shares", "storage_spans"), "id"),
    **dict.fromkeys(("tables", "usage", "views"), "id"),
    **dict.fromkeys(("batches", "deliveries", "files", "notices", "topups", "versions"), "number"),
}
POINTING = (
    ("aliases", "model_id"),
    ("imported_databases", "share_id"),
    ("proofs", "number"),
    ("share_accounts", "share_id"),
    ("share_grants", "share_id"),
    ("versions", "model_id"),
)


def upgrade() -> None:
    _make(sa.BigInteger)


def downgrade() -> None:
    _make(sa.Integer)


def _make(kind: type[sa.Integer]) -> None:
    """SQLite's INTEGER has 64 bits."""
    if op.get_bind().dialect.name != "postgresql":
        return
    word = kind().compile(op.get_bind().dialect)
    for table, column in (*COUNTED.items(), *POINTING):
        op.alter_column(table, column, type_=kind)
    for table, column in COUNTED.items():
        op.execute(f"ALTER SEQUENCE {table}_{column}_seq AS {word}")
