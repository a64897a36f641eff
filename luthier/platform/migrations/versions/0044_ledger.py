"""The ledger is append-only: the store itself refuses to change or delete a record."""

from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

REFUSED = "the ledger is append-only"
VERBS = ("update", "delete")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        body = (
            f"$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = '{REFUSED}'; END $$"
        )
        op.execute(f"CREATE FUNCTION refuse_usage_change() RETURNS trigger LANGUAGE plpgsql AS {body}")
        op.execute(
            "CREATE TRIGGER usage_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_usage_change()"
        )
        return
    for verb in VERBS:
        op.execute(f"CREATE TRIGGER usage_no_{verb} BEFORE {verb} ON usage BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER usage_append_only ON usage")
        op.execute("DROP FUNCTION refuse_usage_change()")
        return
    for verb in VERBS:
        op.execute(f"DROP TRIGGER usage_no_{verb}")
