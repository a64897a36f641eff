"""Roles, what is granted to them, and parameters of accounts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ADMIN, PUBLIC = "ACCOUNTADMIN", "PUBLIC"
OWNERS = ("users", "roles")


def upgrade() -> None:
    op.add_column("users", sa.Column("default_role", sa.String, nullable=True))
    for name in OWNERS:
        op.add_column(name, sa.Column("owner", sa.String, nullable=False, server_default=ADMIN))
        op.add_column(name, sa.Column("comment", sa.String, nullable=False, server_default=""))
    op.add_column("files", sa.Column("role", sa.String, nullable=False, server_default=ADMIN))
    op.create_table(
        "role_grants",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("role", sa.String, primary_key=True),
        sa.Column("granted_to", sa.String, primary_key=True),
        sa.Column("grantee", sa.String, primary_key=True),
        sa.Column("granted_by", sa.String, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
    )
    op.create_index("role_grants_by_grantee", "role_grants", ["account", "granted_to", "grantee"])
    op.create_index("jobs_by_role", "jobs", ["account", "role", "created_on"])
    _create_grants()
    op.create_table(
        "parameters",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    _fill()


def downgrade() -> None:
    # Without privileges every key opens everything in its account: those of lesser roles must not outlive them.
    op.execute(
        f"UPDATE keys SET revoked_on = COALESCE((SELECT MAX(created_on) FROM keys), 0) "
        f"WHERE role <> '{ADMIN}' AND revoked_on IS NULL"
    )
    op.execute(f"DELETE FROM roles WHERE name = '{PUBLIC}'")
    for name in ("parameters", "grants", "role_grants"):
        op.drop_table(name)
    op.drop_index("jobs_by_role", "jobs")
    op.drop_column("files", "role")
    for name in OWNERS:
        op.drop_column(name, "comment")
        op.drop_column(name, "owner")
    op.drop_column("users", "default_role")


def _create_grants() -> None:
    """An empty part of the name: what is granted on lies higher, or is no object of a schema."""
    parts = [sa.Column(name, sa.String, nullable=False) for name in ("database", "schema", "name")]
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("grantee", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        *parts,
        sa.Column("privilege", sa.String, nullable=False),
        sa.Column("is_future", sa.Boolean, nullable=False),
        sa.Column("granted_by", sa.String, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account", "grantee", "kind", "database", "schema", "name", "privilege", "is_future"),
    )
    op.create_index("grants_by_object", "grants", ["account", "kind", "database", "schema", "name"])


def _fill() -> None:
    """Every account gets what a new one has; every user holds the roles of his keys."""
    op.execute(
        f"INSERT INTO roles (account, name, created_on, owner, comment) "
        f"SELECT name, '{PUBLIC}', created_on, '{ADMIN}', '' FROM accounts"
    )
    op.execute(
        "INSERT INTO grants (account, grantee, kind, database, schema, name, privilege, is_future, granted_by, "
        f"created_on) SELECT name, '{PUBLIC}', 'DATABASE ROLE', 'SNOWFLAKE', '', 'CORTEX_USER', 'USAGE', FALSE, "
        f"'{ADMIN}', created_on FROM accounts"
    )
    op.execute(
        "INSERT INTO role_grants (account, role, granted_to, grantee, granted_by, created_on) "
        f"SELECT account, role, 'USER', \"user\", '{ADMIN}', MIN(created_on) FROM keys "
        'GROUP BY account, role, "user"'
    )
