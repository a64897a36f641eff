"""How a version was made: task type, method, parent; what a job waits for, begins with, and how often it was lost."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Column by column: a batch would make SQLite's table anew, without the AUTOINCREMENT that keeps numbers unique.
    op.add_column("versions", sa.Column("task_type", sa.String, nullable=False, server_default="CHAT_COMPLETION"))
    op.add_column("versions", sa.Column("method", sa.String, nullable=False, server_default="lora"))
    op.add_column("versions", sa.Column("parent", sa.String, nullable=True))
    op.add_column("jobs", sa.Column("waits_for", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("lost", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("start_path", sa.String, nullable=True))
    op.create_index("jobs_by_start", "jobs", ["account", "started_on"])


def downgrade() -> None:
    op.drop_index("jobs_by_start", "jobs")
    for name in ("start_path", "lost", "waits_for"):
        op.drop_column("jobs", name)
    for name in ("parent", "method", "task_type"):
        op.drop_column("versions", name)
