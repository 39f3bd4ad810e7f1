"""A name that an operator has banned, and that nobody has come by, is of no role yet. It was noted as a site's."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute(
        "UPDATE members SET role = '' "
        "WHERE enrolled_at IS NULL AND signing_public_key = '' AND standing IN ('member', 'banned')"
    )


def downgrade() -> None:
    op.execute("UPDATE members SET role = 'site' WHERE role = ''")
