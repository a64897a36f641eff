"""Tables and views, jobs, models and their versions, files and batches."""

from typing import Any

import sqlalchemy as sa

from luthier.platform.migrations.first.columns import account, key, needed, number, optional, part_of, table


def _object() -> list[Any]:
    """What every object in account > database > schema has."""
    return [
        number(),
        account(),
        *needed(sa.String, "database", "schema", "name", "display", "owner", "role"),
        *needed(sa.BigInteger, "created_on"),
        sa.UniqueConstraint("account", "database", "schema", "name"),
    ]


table(
    "tables",
    *_object(),
    *needed(sa.String, "path"),
    *needed(sa.BigInteger, "num_rows"),
    *needed(sa.JSON, "columns"),
)

table(
    "views",
    *_object(),
    *needed(sa.Text, "query"),
    *needed(sa.JSON, "reads", "gives", "columns"),
    *needed(sa.String, "comment"),
    *needed(sa.Boolean, "is_secure"),
)

table(
    "jobs",
    *key("id"),
    account(),
    *needed(sa.String, "owner", "role", "model", "base_model"),
    *needed(sa.Text, "training_data", "validation_data"),
    *needed(sa.JSON, "options", "report"),
    *needed(sa.String, "status"),
    *needed(sa.Integer, "attempt"),
    *needed(sa.JSON, "progress"),
    *optional(sa.JSON, "error"),
    *optional(sa.BigInteger, "trained_tokens"),
    *optional(sa.Float, "training_loss", "validation_loss"),
    *optional(sa.String, "idempotency_key"),
    *needed(sa.BigInteger, "created_on"),
    *optional(sa.BigInteger, "started_on", "finished_on"),
    *needed(sa.Integer, "waits_for", "lost", default="0"),
    *optional(sa.String, "start_path", "model_name", "key"),
    *optional(sa.BigInteger, "evaluated_tokens"),
    sa.UniqueConstraint("account", "idempotency_key"),
    sa.Index("jobs_by_account", "account", "created_on"),
    sa.Index("jobs_by_status", "status", "created_on"),
    sa.Index("jobs_by_start", "account", "started_on"),
    sa.Index("jobs_by_role", "account", "role", "created_on"),
    sa.Index("jobs_by_owner", "account", "role", "owner", "created_on"),
    sa.Index("jobs_by_census", "account", "status", "created_on"),
    sa.Index("jobs_by_speed", "base_model", "status", "finished_on"),
    sa.Index("jobs_by_end", "finished_on"),
    sa.Index("jobs_by_model", "account", "model_name", "status"),
)

table("job_counts", *key("account", "role", "owner", "status"), *needed(sa.BigInteger, "count"))

table(
    "events",
    number(),
    part_of("job_id", "jobs.id"),
    *needed(sa.BigInteger, "time"),
    *needed(sa.String, "type"),
    *needed(sa.Text, "message"),
    sa.Index("ix_events_job_id", "job_id"),
)

table(
    "models",
    *_object(),
    *needed(sa.Integer, "default_version", "last_version", default="1"),
    *optional(sa.Integer, "promotion", "canary_version"),
    *optional(sa.Float, "canary_share"),
    *optional(sa.String, "replica_of"),
    sa.Index("models_by_role", "account", "role", "database", "schema", "name"),
)

table(
    "versions",
    number("number"),
    part_of("model_id", "models.id"),
    *needed(sa.Integer, "version"),
    sa.Column("job_id", sa.String, nullable=False, unique=True),
    *needed(sa.String, "base_model", "path", "sha256"),
    *needed(sa.Integer, "rank"),
    *needed(sa.BigInteger, "created_on"),
    *needed(sa.String, "task_type", default="CHAT_COMPLETION"),
    *needed(sa.String, "method", default="lora"),
    *optional(sa.String, "parent"),
    sa.UniqueConstraint("model_id", "version"),
    sa.Index("versions_by_sha256", "sha256"),
    sqlite_autoincrement=True,  # engines know adapters by it: none ever means another's weights
)

table(
    "proofs",
    part_of("number", "versions.number", primary_key=True),
    *needed(sa.String, "state"),
    *needed(sa.Text, "reason"),
    *needed(sa.BigInteger, "checked_on"),
)

table("aliases", part_of("model_id", "models.id", primary_key=True), *key("alias"), *needed(sa.Integer, "version"))

table(
    "model_changes",
    number(),
    account(),
    *needed(sa.String, "model"),
    *needed(sa.BigInteger, "time"),
    *needed(sa.String, "user", "role", "verb"),
    *optional(sa.Integer, "version"),
    *needed(sa.Text, "detail"),
    *optional(sa.Integer, "was", "before"),
    sa.Index("model_changes_by_model", "account", "model", "id"),
)

table("dropped", *key("sha256"), *needed(sa.BigInteger, "time"))

table("region_base_models", *key("name"), *needed(sa.String, "region", "revision"), *needed(sa.Boolean, "is_served"))

table(
    "files",
    number("number"),
    sa.Column("id", sa.String, nullable=False, unique=True),
    account(),
    *needed(sa.String, "owner", "filename", "purpose"),
    *needed(sa.BigInteger, "size"),
    *needed(sa.String, "sha256", "path"),
    *needed(sa.BigInteger, "created_on"),
    *optional(sa.BigInteger, "expires_on"),
    *needed(sa.String, "role", default="ACCOUNTADMIN"),
    sa.Index("files_by_account", "account", "number"),
    sa.Index("files_by_end", "expires_on"),
)

table(
    "batches",
    number("number"),
    sa.Column("id", sa.String, nullable=False, unique=True),
    account(),
    *needed(sa.String, "owner", "role", "endpoint", "input_file_id"),
    *optional(sa.JSON, "metadata"),
    *optional(sa.Integer, "output_seconds"),
    *needed(sa.String, "status"),
    *needed(sa.JSON, "reached"),
    *optional(sa.String, "holder"),
    *optional(sa.BigInteger, "lease_until"),
    *needed(sa.Integer, "attempt"),
    *needed(sa.JSON, "counts", "faults"),
    *optional(sa.String, "output_file_id", "error_file_id"),
    *needed(sa.BigInteger, "created_on", "expires_on"),
    *optional(sa.String, "key"),
    sa.Index("batches_by_account", "account", "number"),
    sa.Index("batches_by_status", "status", "number"),
    sa.Index("batches_by_input", "input_file_id"),
)
