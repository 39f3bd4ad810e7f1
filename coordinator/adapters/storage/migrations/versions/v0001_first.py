"""The first schema: runs, rounds, commands, sites, traffic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False, unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("round_number", sa.Integer, primary_key=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "commands",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("command_id", sa.String(128), nullable=False, unique=True),
        sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("round_number", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("completed", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_table(
        "sites",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "traffic",
        sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("round_number", sa.Integer, primary_key=True),
        sa.Column("site", sa.String(63), primary_key=True),
        sa.Column("upload_bytes", sa.BigInteger, nullable=False),
        sa.Column("download_bytes", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("traffic", "sites", "commands", "rounds", "runs"):
        op.drop_table(table)
