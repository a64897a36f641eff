"""What tables are written down with. Times are epoch milliseconds, amounts (`_ucr`) millionths of a credit."""

from typing import Any

import sqlalchemy as sa

TABLES = sa.MetaData()


def table(name: str, *parts: Any, **given: Any) -> None:
    sa.Table(name, TABLES, *parts, **given)


def number(name: str = "id") -> sa.Column[int]:
    """Counts up with the rows, and is their key."""
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=True)


def account(primary_key: bool = False) -> sa.Column[str]:
    return sa.Column("account", sa.String, sa.ForeignKey("accounts.name"), primary_key=primary_key, nullable=False)


def key(*names: str, kind: Any = sa.String) -> list[sa.Column[Any]]:
    """Parts of the primary key."""
    return [sa.Column(name, kind, primary_key=True, autoincrement=False) for name in names]


def needed(kind: Any, *names: str, default: str | None = None) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False, server_default=default) for name in names]


def optional(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=True) for name in names]


def part_of(name: str, parent: str, **given: Any) -> sa.Column[Any]:
    """Goes with the row that it names."""
    return sa.Column(name, sa.ForeignKey(parent, ondelete="CASCADE"), nullable=False, **given)
