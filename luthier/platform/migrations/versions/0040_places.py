"""Databases and schemas as objects; those that names were used in so far are there, ACCOUNTADMIN's."""

import sqlalchemy as sa
from alembic import op

from luthier.platform.names import parse_name

revision = "0040"
down_revision = "0032"
branch_labels = None
depends_on = None

ADMIN = "ACCOUNTADMIN"
NEW = ("CREATE DATABASE", "CREATE SCHEMA")
TABLES = ("accounts", "tables", "models", "jobs", "grants", "imported_databases", "places")
Place = tuple[str, str, str]


def upgrade() -> None:
    op.create_table(
        "places",
        sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=True),
        sa.Column("database", sa.String, primary_key=True),
        sa.Column("schema", sa.String, primary_key=True),
        sa.Column("comment", sa.String, nullable=False),
        sa.Column("created_on", sa.BigInteger, nullable=False),
    )
    tables = sa.MetaData()
    tables.reflect(op.get_bind(), only=TABLES)
    _fill(op.get_bind(), tables.tables)


def downgrade() -> None:
    op.drop_table("places")
    for privilege in NEW:
        op.execute(f"DELETE FROM grants WHERE privilege = '{privilege}'")


def _fill(connection: sa.Connection, tables: "sa.util.FacadeDict[str, sa.Table]") -> None:
    """The place that the settings name comes when the registry starts."""
    used = {place for name in ("tables", "models", "grants") for place in _used(connection, tables[name])}
    jobs = tables["jobs"].c
    making = sa.select(jobs.account, jobs.model).where(jobs.status.in_(("PENDING", "IN_PROGRESS")))
    for account, model in connection.execute(making):
        name = parse_name(model, "", "")
        used.add((account, name.database, name.schema))
    made = tables["imported_databases"].c
    used |= {(account, database, "") for account, database in connection.execute(sa.select(made.account, made.name))}
    used |= {(account, database, "") for account, database, _ in used}
    born = dict(connection.execute(sa.select(tables["accounts"].c.name, tables["accounts"].c.created_on)).all())
    owned = _owned(connection, tables["grants"])
    for account, database, schema in sorted(used):
        place = {"account": account, "database": database, "schema": schema}
        connection.execute(sa.insert(tables["places"]).values(**place, comment="", created_on=born[account]))
        if (account, database, schema) not in owned:
            kind = "SCHEMA" if schema else "DATABASE"
            grant = {
                "kind": kind,
                "name": "",
                "privilege": "OWNERSHIP",
                "is_future": False,
                "created_on": born[account],
            }
            connection.execute(sa.insert(tables["grants"]).values(**place, **grant, grantee=ADMIN, granted_by=ADMIN))


def _used(connection: sa.Connection, table: sa.Table) -> set[Place]:
    columns = table.c
    query = sa.select(columns.account, columns.database, columns.schema).distinct()
    if "kind" in columns:
        query = query.where(columns.kind.in_(("DATABASE", "SCHEMA", "TABLE", "MODEL")))
    return {(account, database, schema) for account, database, schema in connection.execute(query)}


def _owned(connection: sa.Connection, grants: sa.Table) -> set[Place]:
    columns = grants.c
    is_owner = (columns.kind.in_(("DATABASE", "SCHEMA")), columns.privilege == "OWNERSHIP")
    query = sa.select(columns.account, columns.database, columns.schema).where(*is_owner)
    return {(account, database, schema) for account, database, schema in connection.execute(query)}
