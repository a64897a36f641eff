"""From which record of the ledger on a limit's spent is the sum of the ledger: so the two can be compared."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("after_number", "before_ucr"):
        op.add_column("limits", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE limits SET before_ucr = spent_ucr, after_number = (SELECT COALESCE(MAX(id), 0) FROM usage)")


def downgrade() -> None:
    for name in ("after_number", "before_ucr"):
        op.drop_column("limits", name)
