"""A name of the store's own, made here once: a bucket remembers by it whose files it holds."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    store = op.create_table(
        "store",
        sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("store_id", sa.String(32), nullable=False),
    )
    op.bulk_insert(store, [{"key": 1, "store_id": secrets.token_hex(16)}])


def downgrade() -> None:
    op.drop_table("store")
