"""Shares: what of an account others may ask, to whom it is open, and the databases that were made of it."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shares",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("comment", sa.String, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account", "name"),
        sqlite_autoincrement=True,  # a share of the name of a dropped one is another
    )
    op.create_table(
        "share_accounts",
        _of_share(primary_key=True),
        sa.Column("account", sa.String, primary_key=True),  # one that is not there gets nothing, and is not told of
        sa.Column("granted_by", sa.String, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
    )
    op.create_index("share_accounts_by_account", "share_accounts", ["account"])
    place = [sa.Column(name, sa.String, nullable=False) for name in ("kind", "database", "schema", "name")]
    op.create_table(
        "share_grants",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _of_share(nullable=False),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        *place,
        sa.Column("privilege", sa.String, nullable=False),
        sa.Column("granted_by", sa.String, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("share_id", "kind", "database", "schema", "name", "privilege"),
    )
    op.create_index("share_grants_by_object", "share_grants", ["account", "kind", "database", "schema", "name"])
    op.create_table(
        "imported_databases",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("share_id", sa.Integer, nullable=False),  # stays when the share goes: then there is nothing in it
        sa.Column("created_on", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.execute(
        "DELETE FROM grants WHERE kind = 'SHARE' OR privilege IN "
        "('IMPORTED PRIVILEGES', 'CREATE SHARE', 'IMPORT SHARE') OR EXISTS (SELECT 1 FROM imported_databases AS made "
        "WHERE made.account = grants.account AND made.name = grants.database)"
    )
    for name in ("imported_databases", "share_grants", "share_accounts", "shares"):
        op.drop_table(name)


def _of_share(**given: Any) -> sa.Column[int]:
    return sa.Column("share_id", sa.Integer, sa.ForeignKey("shares.id", ondelete="CASCADE"), **given)
