"""USE AI FUNCTIONS: every account's PUBLIC holds it, as a new account's does."""

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "INSERT INTO grants (account, grantee, kind, database, schema, name, privilege, is_future, granted_by, "
        "created_on) SELECT name, 'PUBLIC', 'ACCOUNT', '', '', '', 'USE AI FUNCTIONS', FALSE, 'ACCOUNTADMIN', "
        "created_on FROM accounts"
    )


def downgrade() -> None:
    op.execute("DELETE FROM grants WHERE privilege = 'USE AI FUNCTIONS'")
