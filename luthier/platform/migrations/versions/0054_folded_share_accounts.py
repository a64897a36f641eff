"""To whom a share is open is written in capitals, whether there is such an account or not."""

import sqlalchemy as sa
from alembic import op

revision = "0054"
down_revision = "0053"
branch_labels = None
depends_on = None

opened = sa.table("share_accounts", sa.column("share_id"), sa.column("account"))


def upgrade() -> None:
    """Of two that differ in their letters alone one stays."""
    tx = op.get_bind()
    seen = set()
    for share_id, account in tx.execute(sa.select(opened.c.share_id, opened.c.account)).all():
        its = sa.and_(opened.c.share_id == share_id, opened.c.account == account)
        place = share_id, account.upper()
        tx.execute(sa.delete(opened).where(its) if place in seen else _in_capitals(its, account))
        seen.add(place)


def downgrade() -> None:
    """As it is: no name says how it was written."""


def _in_capitals(its: sa.ColumnElement[bool], account: str) -> sa.Update:
    return sa.update(opened).where(its).values(account=account.upper())
