"""Accounts, users, roles, keys; tables, jobs, events, models, versions; usage."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("accounts", sa.Column("name", sa.String, primary_key=True), _time("created_on"))
    op.create_table(
        "users",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        _time("created_on"),
    )
    op.create_table(
        "roles",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        _time("created_on"),
    )
    op.create_table(
        "keys",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("prefix", sa.String, nullable=False),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        _time("created_on"),
        _time("revoked_on", nullable=True),
    )
    op.create_table(
        "tables",
        *_object_columns(),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("num_rows", sa.BigInteger, nullable=False),
        sa.Column("columns", sa.JSON, nullable=False),
        sa.UniqueConstraint("account", "database", "schema", "name"),
    )
    op.create_table(
        "models",
        *_object_columns(),
        sa.UniqueConstraint("account", "database", "schema", "name"),
    )
    _create_jobs()
    op.create_table(
        "versions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("job_id", sa.String, nullable=False, unique=True),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        _time("created_on"),
        sa.UniqueConstraint("model_id", "version"),
        sqlite_autoincrement=True,
    )
    _create_usage()


def downgrade() -> None:
    for name in ("usage", "versions", "events", "jobs", "models", "tables", "keys", "roles", "users", "accounts"):
        op.drop_table(name)


def _time(name: str, nullable: bool = False) -> sa.Column[int]:
    """Epoch milliseconds."""
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _object_columns() -> list[sa.Column[Any]]:
    """What every object in account > database > schema has."""
    return [
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("database", sa.String, nullable=False),
        sa.Column("schema", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("display", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        _time("created_on"),
    ]


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("training_data", sa.Text, nullable=False),
        sa.Column("validation_data", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON, nullable=True),
        sa.Column("trained_tokens", sa.BigInteger, nullable=True),
        sa.Column("training_loss", sa.Float, nullable=True),
        sa.Column("validation_loss", sa.Float, nullable=True),
        sa.Column("idempotency_key", sa.String, nullable=True),
        _time("created_on"),
        _time("started_on", nullable=True),
        _time("finished_on", nullable=True),
        sa.UniqueConstraint("account", "idempotency_key"),
    )
    op.create_index("jobs_by_account", "jobs", ["account", "created_on"])
    op.create_index("jobs_by_status", "jobs", ["status", "created_on"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
        _time("time"),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
    )


def _create_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("source_id", sa.String, nullable=False),
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("function", sa.String, nullable=False),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("trained_tokens", sa.BigInteger, nullable=False),
        sa.Column("price_version", sa.String, nullable=False),
        sa.Column("amount_ucr", sa.BigInteger, nullable=False),
        _time("time"),
        sa.UniqueConstraint("kind", "source_id"),
    )
    op.create_index("usage_by_account", "usage", ["account", "kind", "time"])
