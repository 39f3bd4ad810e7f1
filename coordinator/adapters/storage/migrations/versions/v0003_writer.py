"""How many coordinators have taken a store that is no file: each one that writes must be the last of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    writer = op.create_table(
        "writer",
        sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("last_transaction", sa.String, nullable=True),
    )
    op.bulk_insert(writer, [{"key": 1, "epoch": 0}])


def downgrade() -> None:
    op.drop_table("writer")
