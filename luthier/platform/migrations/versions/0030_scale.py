"""What keeps the registry's answers flat: names of models in jobs, counts of jobs, indexes by role."""

import sqlalchemy as sa
from alembic import op

from luthier.platform.names import parse_name

revision = "0030"
down_revision = "0010"
branch_labels = None
depends_on = None

INDEXES = {
    "jobs_by_model": ("jobs", ["account", "model_name", "status"]),
    "models_by_role": ("models", ["account", "role", "database", "schema", "name"]),
}
COUNT = "INSERT INTO job_counts (account, role, status, count) VALUES ({row}.account, {row}.role, {row}.status, {by})"
MORE = " ON CONFLICT (account, role, status) DO UPDATE SET count = job_counts.count + excluded.count;"
MOVED = "OLD.account <> NEW.account OR OLD.role <> NEW.role OR OLD.status <> NEW.status"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("model_name", sa.String, nullable=True))
    _name_models()
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)
    op.create_table(
        "job_counts",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("account", "role", "status")),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO job_counts (account, role, status, count) "
        "SELECT account, role, status, COUNT(*) FROM jobs GROUP BY account, role, status"
    )
    _count_jobs()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER jobs_counted ON jobs")
        op.execute("DROP FUNCTION count_jobs()")
    else:
        for verb in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER jobs_counted_{verb}")
    op.drop_table("job_counts")
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    op.drop_column("jobs", "model_name")


def _name_models() -> None:
    """Of jobs that still make one: nobody looks for the others by it."""
    jobs = sa.table("jobs", sa.column("id"), sa.column("model"), sa.column("status"), sa.column("model_name"))
    connection = op.get_bind()
    active = sa.select(jobs.c.id, jobs.c.model).where(jobs.c.status.in_(("PENDING", "IN_PROGRESS")))
    for job_id, model in connection.execute(active).all():
        name = parse_name(model, "", "").dotted
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(model_name=name))


def _count_jobs() -> None:
    """By triggers, so that no way to change a job leaves the counts behind."""
    more, less = (f"{COUNT.format(row=row, by=by)}{MORE}" for row, by in (("NEW", 1), ("OLD", -1)))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'UPDATE' AND NOT ({MOVED}) THEN RETURN NULL; END IF; "
            f"IF TG_OP <> 'INSERT' THEN {less} END IF; IF TG_OP <> 'DELETE' THEN {more} END IF; "
            f"RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER jobs_counted AFTER INSERT OR UPDATE OF account, role, status OR DELETE ON jobs "
            "FOR EACH ROW EXECUTE FUNCTION count_jobs()"
        )
        return
    op.execute(f"CREATE TRIGGER jobs_counted_insert AFTER INSERT ON jobs BEGIN {more} END")
    op.execute(
        f"CREATE TRIGGER jobs_counted_update AFTER UPDATE OF account, role, status ON jobs WHEN {MOVED} "
        f"BEGIN {less} {more} END"
    )
    op.execute(f"CREATE TRIGGER jobs_counted_delete AFTER DELETE ON jobs BEGIN {less} END")
