"""All tables of the first release. Those in `first` stay as they are: what changes later is a migration of its own."""

from alembic import op

from luthier.platform.migrations.first import accounts, models, money, triggers  # noqa: F401
from luthier.platform.migrations.first.columns import TABLES

revision = "0052"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    TABLES.create_all(op.get_bind())
    triggers.create()


def downgrade() -> None:
    TABLES.drop_all(op.get_bind())
    triggers.drop_functions()
