"""Alembic's environment: every schema the store ever had, each reached from the one before."""
