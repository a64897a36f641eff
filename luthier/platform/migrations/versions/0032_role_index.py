"""The roles that a role has, by one index that has all of it: SQLite else reads every role grant of the account."""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

NAME, TABLE, COLUMNS = "role_grants_by_grantee", "role_grants", ["account", "granted_to", "grantee"]


def upgrade() -> None:
    op.drop_index(NAME, TABLE)
    op.create_index(NAME, TABLE, [*COLUMNS, "role"])


def downgrade() -> None:
    op.drop_index(NAME, TABLE)
    op.create_index(NAME, TABLE, COLUMNS)
