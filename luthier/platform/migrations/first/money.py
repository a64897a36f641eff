"""The ledger, credits and what they are spent on, rate limits, webhooks."""

import sqlalchemy as sa

from luthier.platform.migrations.first.columns import account, key, needed, number, optional, table

IS_OPEN, IS_WAITING = sa.text("until IS NULL"), sa.text("next_on IS NOT NULL")

table(
    "usage",
    number(),
    *needed(sa.String, "kind", "source_id"),
    account(),
    *needed(sa.String, "user", "role", "function", "base_model", "model"),
    *needed(sa.BigInteger, "prompt_tokens", "completion_tokens", "trained_tokens"),
    *needed(sa.String, "price_version"),
    *needed(sa.BigInteger, "amount_ucr", "time"),
    *optional(sa.Integer, "version"),
    *needed(sa.BigInteger, "stored_bytes", default="0"),
    *optional(sa.String, "key"),
    *needed(sa.BigInteger, "evaluated_tokens", default="0"),
    sa.UniqueConstraint("kind", "source_id"),
    sa.Index("usage_by_account", "account", "kind", "time"),
    sa.Index("usage_by_number", "account", "id"),
)

table(
    "usage_hours",
    *key("account", "kind", "role", "user"),
    *key("time", kind=sa.BigInteger),
    *needed(sa.BigInteger, "records", "prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens"),
    *needed(sa.BigInteger, "amount_ucr", "stored_bytes"),
)

table(
    "storage_spans",
    number(),
    account(),
    *needed(sa.String, "sha256", "path"),
    *needed(sa.BigInteger, "since"),
    *optional(sa.BigInteger, "until", "num_bytes"),
    sa.Index("storage_spans_open", "account", "sha256", unique=True, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN),
    sa.Index("storage_spans_by_account", "account", "until"),
)

table(
    "limits",
    account(primary_key=True),
    *key("scope"),
    *needed(sa.BigInteger, "granted_ucr", "spent_ucr", "reserved_ucr", "overrun_ucr"),
    *needed(sa.Boolean, "is_hard"),
    *needed(sa.String, "period"),
    *needed(sa.BigInteger, "period_began"),
    *optional(sa.BigInteger, "passed_on"),
    *needed(sa.BigInteger, "created_on"),
    *optional(sa.BigInteger, "alert_ucr"),
    *needed(sa.BigInteger, "after_number", "before_ucr", default="0"),
    *optional(sa.BigInteger, "refused_on", "low_on", "overdrawn_on"),
    sa.CheckConstraint("granted_ucr >= 0 AND spent_ucr >= 0 AND reserved_ucr >= 0 AND overrun_ucr >= 0"),
    sa.CheckConstraint("scope <> '' OR spent_ucr + reserved_ucr <= granted_ucr + overrun_ucr"),
)

table(
    "topups",
    number("number"),
    account(),
    *needed(sa.String, "key"),
    *needed(sa.BigInteger, "amount_ucr"),
    *needed(sa.String, "note", "by"),
    *needed(sa.BigInteger, "time"),
    sa.UniqueConstraint("account", "key"),
)

table(
    "reservations",
    *key("id", "scope"),
    account(),
    *needed(sa.String, "holder"),
    *needed(sa.BigInteger, "amount_ucr", "spent_ucr"),
    *needed(sa.Integer, "turn"),
    *optional(sa.BigInteger, "until"),
    sa.CheckConstraint("0 <= spent_ucr AND spent_ucr <= amount_ucr"),
    sa.Index("reservations_by_account", "account", "scope"),
    sa.Index("ix_reservations_holder", "holder"),
    sa.Index("ix_reservations_until", "until"),
)

table(
    "rate_limits",
    account(primary_key=True),
    *key("key", "model", "unit"),
    *needed(sa.BigInteger, "allowed", "created_on"),
    sa.CheckConstraint("allowed >= 0"),
    sa.CheckConstraint("key <> '' OR model <> ''"),
)

table(
    "rate_leases",
    *key("account", "key", "model", "unit"),
    *key("minute", kind=sa.BigInteger),
    *key("holder"),
    *needed(sa.Integer, "turn"),
    *needed(sa.BigInteger, "amount"),
    sa.CheckConstraint("amount >= 0"),
    sa.Index("ix_rate_leases_minute", "minute"),
)

table(
    "webhooks",
    *key("id"),
    account(),
    *needed(sa.String, "url"),
    *optional(sa.JSON, "types"),
    *needed(sa.BigInteger, "created_on"),
    *needed(sa.String, "created_by"),
    *optional(sa.BigInteger, "ended_on"),
    *needed(sa.Integer, "failures", default="0"),
    *needed(sa.BigInteger, "rests_until", default="0"),
    sa.Index("ix_webhooks_account", "account"),
)

table(
    "notices",
    number("number"),
    sa.Column("id", sa.String, nullable=False, unique=True),
    account(),
    *needed(sa.String, "type"),
    *needed(sa.BigInteger, "time"),
    *needed(sa.JSON, "data"),
    sa.Index("notices_by_number", "account", "number"),
    sa.Index("notices_by_type", "account", "type", "time"),
    sa.Index("notices_by_time", "time"),
)

table(
    "deliveries",
    number("number"),
    sa.Column("notice", sa.String, sa.ForeignKey("notices.id"), nullable=False),
    sa.Column("webhook", sa.String, sa.ForeignKey("webhooks.id"), nullable=False),
    *needed(sa.Integer, "attempts"),
    *optional(sa.BigInteger, "next_on", "taken_on", "given_up_on"),
    *needed(sa.String, "told"),
    sa.UniqueConstraint("notice", "webhook"),
    sa.Index(
        "deliveries_waiting",
        *("webhook", "next_on", "number"),
        sqlite_where=IS_WAITING,
        postgresql_where=IS_WAITING,
    ),
    sa.Index("ix_deliveries_webhook", "webhook"),
)
