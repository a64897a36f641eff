"""Keys with a public id, a scope and an end; which key used what; the audit."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

APPEND_ONLY = "the audit is append-only"


def upgrade() -> None:
    op.add_column("keys", sa.Column("id", sa.String, nullable=True))
    op.add_column("keys", sa.Column("name", sa.String, nullable=False, server_default=""))
    op.add_column("keys", sa.Column("scope", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("keys", sa.Column("created_by", sa.String, nullable=False, server_default=""))
    for name in ("expires_on", "last_used_on"):
        op.add_column("keys", sa.Column(name, sa.BigInteger, nullable=True))
    op.add_column("keys", sa.Column("rotated_to", sa.String, nullable=True))
    _name_keys()
    op.create_index("keys_by_id", "keys", ["id"], unique=True)
    op.create_index("keys_by_user", "keys", ["account", "user"])
    op.add_column("usage", sa.Column("key", sa.String, nullable=True))
    _create_audit()
    _refuse_changes()


def downgrade() -> None:
    # Nothing would bound them: keys with a scope or an end must not outlive those columns.
    op.execute(
        "UPDATE keys SET revoked_on = COALESCE(last_used_on, created_on) WHERE revoked_on IS NULL "
        "AND (expires_on IS NOT NULL OR CAST(scope AS VARCHAR) <> '{}')"
    )
    op.drop_table("audit_heads")
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_audit_change()")
    op.drop_column("usage", "key")
    op.drop_index("keys_by_user", "keys")
    op.drop_index("keys_by_id", "keys")
    for name in ("rotated_to", "last_used_on", "expires_on", "created_by", "scope", "name", "id"):
        op.drop_column("keys", name)


def _name_keys() -> None:
    connection = op.get_bind()
    keys = sa.table("keys", sa.column("hash"), sa.column("id"))
    for (found,) in connection.execute(sa.select(keys.c.hash)).all():
        named = sa.update(keys).where(keys.c.hash == found).values(id=f"key_{secrets.token_hex(12)}")
        connection.execute(named)


def _create_audit() -> None:
    """A chain for each account; what nobody's key asked stands in that of the empty name, so it is no foreign key."""
    text = ("user", "role", "key", "action", "object_kind", "object_name", "source", "reason")
    op.create_table(
        "audit",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in text),
        sa.Column("is_allowed", sa.Boolean, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["account", "time"])
    op.create_table(
        "audit_heads",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
    )


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            f"BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
        )
