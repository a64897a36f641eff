"""What the store does and refuses by itself: no way to change a row leaves its counts behind, or changes a record."""

from alembic import op

JOB = ("account", "role", "owner", "status")
HOUR = {
    **{name: "{row}" + name for name in ("account", "kind", "role")},
    "user": "CASE WHEN {row}role = 'PUBLIC' THEN {row}\"user\" ELSE '' END",
    "time": "{row}time - {row}time % 3600000",
}
"""The hour that a record is added to: of the whole role, or where that is everybody's, of its user."""
USED = ("prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens", "amount_ucr", "stored_bytes")
MOVED = " OR ".join(f"OLD.{name} <> NEW.{name}" for name in JOB)


def create() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _create_in_postgres()
    else:
        _create_in_sqlite()


def drop_functions() -> None:
    """Of PostgreSQL's triggers: they outlive the tables."""
    if op.get_bind().dialect.name == "postgresql":
        for name in ("refuse_audit_change", "refuse_usage_change", "count_jobs", "add_up_usage"):
            op.execute(f"DROP FUNCTION {name}()")


def _create_in_postgres() -> None:
    _create_function("refuse_audit_change", "RAISE EXCEPTION 'the audit is append-only';")
    refused = "ERRCODE = 'integrity_constraint_violation', MESSAGE = 'the ledger is append-only'"
    _create_function("refuse_usage_change", f"RAISE EXCEPTION USING {refused};")
    for table in ("audit", "usage"):
        _create_trigger(
            f"{table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT "
            f"EXECUTE FUNCTION refuse_{table}_change()"
        )
    _create_function(
        "count_jobs",
        f"IF TG_OP = 'UPDATE' AND NOT ({MOVED}) THEN RETURN NULL; END IF; "
        f"IF TG_OP <> 'INSERT' THEN {_count('OLD', -1)} END IF; IF TG_OP <> 'DELETE' THEN {_count('NEW', 1)} END IF; "
        f"RETURN NULL;",
    )
    _create_trigger(
        f"jobs_counted AFTER INSERT OR UPDATE OF {', '.join(JOB)} OR DELETE ON jobs "
        f"FOR EACH ROW EXECUTE FUNCTION count_jobs()"
    )
    hour, sums = ", ".join(HOUR.values()).format(row=""), ", ".join(f"SUM({name})" for name in USED)
    in_order = ", ".join(str(number + 1) for number in range(len(HOUR)))  # two at once lock rows in one order
    added = f"SELECT {hour}, COUNT(*), {sums} FROM added GROUP BY {hour} ORDER BY {in_order}"
    _create_function("add_up_usage", f"{_add_up(added)} RETURN NULL;")
    _create_trigger(
        "usage_added_up AFTER INSERT ON usage REFERENCING NEW TABLE AS added FOR EACH STATEMENT "
        "EXECUTE FUNCTION add_up_usage()"
    )


def _create_in_sqlite() -> None:
    for table, name in {"audit": "audit", "usage": "ledger"}.items():
        for verb in ("update", "delete"):
            refused = f"SELECT RAISE(ABORT, 'the {name} is append-only');"
            _create_trigger(f"{table}_no_{verb} BEFORE {verb} ON {table} BEGIN {refused} END")
    more, less = _count("NEW", 1), _count("OLD", -1)
    _create_trigger(f"jobs_counted_insert AFTER INSERT ON jobs BEGIN {more} END")
    moved = f"AFTER UPDATE OF {', '.join(JOB)} ON jobs WHEN {MOVED}"
    _create_trigger(f"jobs_counted_update {moved} BEGIN {less} {more} END")
    _create_trigger(f"jobs_counted_delete AFTER DELETE ON jobs BEGIN {less} END")
    values = ", ".join([*HOUR.values(), "1", *(f"NEW.{name}" for name in USED)]).format(row="NEW.")
    _create_trigger(f"usage_added_up AFTER INSERT ON usage BEGIN {_add_up(f'VALUES ({values})')} END")


def _create_function(name: str, body: str) -> None:
    op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")


def _create_trigger(text: str) -> None:
    op.execute(f"CREATE TRIGGER {text}")


def _count(row: str, by: int) -> str:
    names, values = ", ".join(JOB), ", ".join(f"{row}.{name}" for name in JOB)
    return (
        f"INSERT INTO job_counts ({names}, count) VALUES ({values}, {by}) "
        f"ON CONFLICT ({names}) DO UPDATE SET count = job_counts.count + excluded.count;"
    )


def _add_up(rows: str) -> str:
    """In each hour what was used in it: to add up a million records takes a second."""
    hour, sums = ", ".join(f'"{name}"' for name in HOUR), ("records", *USED)
    more = ", ".join(f"{name} = usage_hours.{name} + excluded.{name}" for name in sums)
    return f"INSERT INTO usage_hours ({hour}, {', '.join(sums)}) {rows} ON CONFLICT ({hour}) DO UPDATE SET {more};"
