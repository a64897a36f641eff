"""What PUBLIC made is its users': jobs are counted by who asked for them, and what nobody's is left is ACCOUNTADMIN's.

Budgets of roles and users that are no more go.
"""

import sqlalchemy as sa
from alembic import op

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None

BEFORE = ("account", "role", "status")
NOW = ("account", "role", "owner", "status")
OWNERS = {"role": "roles", "user": "users"}


def upgrade() -> None:
    op.create_index("jobs_by_owner", "jobs", ["account", "role", "owner", "created_on"])
    _count_jobs_by(NOW)
    for table in ("jobs", "batches", "files"):
        op.execute(
            f"UPDATE {table} SET role = 'ACCOUNTADMIN' WHERE role = 'PUBLIC' AND NOT EXISTS "
            f"(SELECT 1 FROM users WHERE users.account = {table}.account AND users.name = {table}.owner "
            f"AND users.created_on <= {table}.created_on)"
        )
    for table in ("reservations", "limits"):
        for kind, owners in OWNERS.items():
            op.execute(
                f"DELETE FROM {table} WHERE substr(scope, 1, 5) = '{kind}:' AND NOT EXISTS (SELECT 1 FROM {owners} "
                f"WHERE {owners}.account = {table}.account AND {owners}.name = substr({table}.scope, 6))"
            )


def downgrade() -> None:
    _count_jobs_by(BEFORE)
    op.drop_index("jobs_by_owner", "jobs")


def _count_jobs_by(key: tuple[str, ...]) -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    if is_postgres:
        op.execute("DROP TRIGGER jobs_counted ON jobs")
        op.execute("DROP FUNCTION count_jobs()")
    else:
        for verb in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER jobs_counted_{verb}")
    op.drop_table("job_counts")
    op.create_table(
        "job_counts",
        *(sa.Column(name, sa.String, primary_key=True) for name in key),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    names = ", ".join(key)
    op.execute(f"INSERT INTO job_counts ({names}, count) SELECT {names}, COUNT(*) FROM jobs GROUP BY {names}")
    (_count_in_postgres if is_postgres else _count_in_sqlite)(key)


def _count_in_postgres(key: tuple[str, ...]) -> None:
    moved, more, less = _parts(key)
    op.execute(
        f"CREATE FUNCTION count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'UPDATE' AND NOT ({moved}) THEN RETURN NULL; END IF; "
        f"IF TG_OP <> 'INSERT' THEN {less} END IF; IF TG_OP <> 'DELETE' THEN {more} END IF; "
        f"RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER jobs_counted AFTER INSERT OR UPDATE OF {', '.join(key)} OR DELETE ON jobs "
        f"FOR EACH ROW EXECUTE FUNCTION count_jobs()"
    )


def _count_in_sqlite(key: tuple[str, ...]) -> None:
    moved, more, less = _parts(key)
    op.execute(f"CREATE TRIGGER jobs_counted_insert AFTER INSERT ON jobs BEGIN {more} END")
    op.execute(
        f"CREATE TRIGGER jobs_counted_update AFTER UPDATE OF {', '.join(key)} ON jobs WHEN {moved} "
        f"BEGIN {less} {more} END"
    )
    op.execute(f"CREATE TRIGGER jobs_counted_delete AFTER DELETE ON jobs BEGIN {less} END")


def _parts(key: tuple[str, ...]) -> tuple[str, str, str]:
    """Whether a row counts elsewhere now, and what one more and one less is."""
    names = ", ".join(key)

    def added(row: str, by: int) -> str:
        values = ", ".join(f"{row}.{name}" for name in key)
        return (
            f"INSERT INTO job_counts ({names}, count) VALUES ({values}, {by}) "
            f"ON CONFLICT ({names}) DO UPDATE SET count = job_counts.count + excluded.count;"
        )

    return " OR ".join(f"OLD.{name} <> NEW.{name}" for name in key), added("NEW", 1), added("OLD", -1)
