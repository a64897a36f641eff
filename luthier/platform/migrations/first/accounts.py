"""Accounts: users, roles, what is granted to them, keys, databases and schemas, shares, the audit."""

import sqlalchemy as sa

from luthier.platform.migrations.first.columns import account, key, needed, number, optional, part_of, table

ADMIN = "ACCOUNTADMIN"

table("accounts", *key("name"), *needed(sa.BigInteger, "created_on"))

table("parameters", account(primary_key=True), *key("name"), *needed(sa.Text, "value"))

table(
    "places",
    account(primary_key=True),
    *key("database", "schema"),
    *needed(sa.String, "comment"),
    *needed(sa.BigInteger, "created_on"),
)

table(
    "users",
    account(primary_key=True),
    *key("name"),
    *needed(sa.BigInteger, "created_on"),
    *optional(sa.String, "default_role"),
    *needed(sa.String, "owner", default=ADMIN),
    *needed(sa.String, "comment", default=""),
)

table("dropped_users", account(primary_key=True), *key("name"), *needed(sa.BigInteger, "dropped_on"))

table(
    "roles",
    account(primary_key=True),
    *key("name"),
    *needed(sa.BigInteger, "created_on"),
    *needed(sa.String, "owner", default=ADMIN),
    *needed(sa.String, "comment", default=""),
)

table(
    "keys",
    *key("hash"),
    *needed(sa.String, "prefix"),
    account(),
    *needed(sa.String, "user", "role"),
    *needed(sa.BigInteger, "created_on"),
    *optional(sa.BigInteger, "revoked_on"),
    *optional(sa.String, "id"),
    *needed(sa.String, "name", default=""),
    *needed(sa.JSON, "scope", default="{}"),
    *needed(sa.String, "created_by", default=""),
    *optional(sa.BigInteger, "expires_on", "last_used_on"),
    *optional(sa.String, "rotated_to"),
    sa.Index("keys_by_id", "id", unique=True),
    sa.Index("keys_by_user", "account", "user"),
)

table(
    "role_grants",
    account(primary_key=True),
    *key("role", "granted_to", "grantee"),
    *needed(sa.String, "granted_by"),
    *needed(sa.BigInteger, "created_on"),
    sa.Index("role_grants_by_grantee", "account", "granted_to", "grantee", "role"),
)

table(
    "grants",
    number(),
    account(),
    *needed(sa.String, "grantee", "kind", "database", "schema", "name", "privilege"),
    *needed(sa.Boolean, "is_future"),
    *needed(sa.String, "granted_by"),
    *needed(sa.BigInteger, "created_on"),
    sa.UniqueConstraint("account", "grantee", "kind", "database", "schema", "name", "privilege", "is_future"),
    sa.Index("grants_by_object", "account", "kind", "database", "schema", "name"),
)

table(
    "shares",
    number(),
    account(),
    *needed(sa.String, "name", "owner", "comment"),
    *needed(sa.BigInteger, "created_on"),
    sa.UniqueConstraint("account", "name"),
    sqlite_autoincrement=True,  # a share of the name of a dropped one is another
)

table(
    "share_accounts",
    part_of("share_id", "shares.id", primary_key=True),
    *key("account"),  # one that is not there gets nothing, and is not told of
    *needed(sa.String, "granted_by"),
    *needed(sa.BigInteger, "created_on"),
    sa.Index("share_accounts_by_account", "account"),
)

table(
    "share_grants",
    number(),
    part_of("share_id", "shares.id"),
    account(),
    *needed(sa.String, "kind", "database", "schema", "name", "privilege", "granted_by"),
    *needed(sa.BigInteger, "created_on"),
    sa.UniqueConstraint("share_id", "kind", "database", "schema", "name", "privilege"),
    sa.Index("share_grants_by_object", "account", "kind", "database", "schema", "name"),
)

table(
    "imported_databases",
    account(primary_key=True),
    *key("name"),
    *needed(sa.Integer, "share_id"),  # stays when the share goes: then there is nothing in it
    *needed(sa.BigInteger, "created_on"),
)

table(
    "audit",
    *key("account"),
    *key("number", kind=sa.BigInteger),
    sa.Column("id", sa.String, nullable=False, unique=True),
    *needed(sa.BigInteger, "time"),
    *needed(sa.Text, "user", "role", "key", "action", "object_kind", "object_name", "source", "reason"),
    *needed(sa.Boolean, "is_allowed"),
    *needed(sa.Integer, "status"),
    *needed(sa.BigInteger, "count"),
    *needed(sa.String, "hash"),
    sa.Index("audit_by_time", "account", "time"),
)

table("audit_heads", *key("account"), *needed(sa.BigInteger, "count"), *needed(sa.String, "hash"))
