"""Runs migrations over the connection that `coordinator.adapters.storage.engine.migrate` hands in."""

from __future__ import annotations

from alembic import context

from coordinator.adapters.storage.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
