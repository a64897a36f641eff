"""Files by an id, and batches of requests over them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.Column("expires_on", sa.BigInteger, nullable=True),
    )
    op.create_index("files_by_account", "files", ["account", "number"])
    op.create_index("files_by_end", "files", ["expires_on"])
    op.create_table(
        "batches",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("input_file_id", sa.String, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=True),
        sa.Column("output_seconds", sa.Integer, nullable=True),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("reached", sa.JSON, nullable=False),
        sa.Column("holder", sa.String, nullable=True),
        sa.Column("lease_until", sa.BigInteger, nullable=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("faults", sa.JSON, nullable=False),
        sa.Column("output_file_id", sa.String, nullable=True),
        sa.Column("error_file_id", sa.String, nullable=True),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.Column("expires_on", sa.BigInteger, nullable=False),
    )
    op.create_index("batches_by_account", "batches", ["account", "number"])
    op.create_index("batches_by_status", "batches", ["status", "number"])
    op.create_index("batches_by_input", "batches", ["input_file_id"])


def downgrade() -> None:
    op.drop_table("batches")
    op.drop_table("files")
