"""From when until when an account keeps the files of its versions; those that are there are kept already."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

IS_OPEN = sa.text("until IS NULL")


def upgrade() -> None:
    op.create_table(
        "storage_spans",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=True),
        sa.Column("num_bytes", sa.BigInteger, nullable=True),
    )
    one = ("storage_spans_open", "storage_spans", ["account", "sha256"])
    op.create_index(*one, unique=True, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)
    op.create_index("versions_by_sha256", "versions", ["sha256"])
    op.execute(
        "INSERT INTO storage_spans (account, sha256, path, since) SELECT models.account, versions.sha256, "
        "MIN(versions.path), MIN(versions.created_on) FROM versions JOIN models ON models.id = versions.model_id "
        "GROUP BY models.account, versions.sha256"
    )
    never_billed = "account NOT IN (SELECT account FROM usage WHERE kind = 'storage')"
    made_here = (  # a replica's versions say when they were made, and not since when they are here
        "SELECT 1 FROM versions JOIN models ON models.id = versions.model_id WHERE models.account = "
        "storage_spans.account AND versions.sha256 = storage_spans.sha256 AND models.replica_of IS NULL"
    )
    is_unknown = f"{never_billed} OR NOT EXISTS ({made_here})"
    op.execute(f"UPDATE storage_spans SET since = {time.time_ns() // 1_000_000} WHERE {is_unknown}")


def downgrade() -> None:
    op.drop_index("versions_by_sha256", "versions")
    op.drop_table("storage_spans")
