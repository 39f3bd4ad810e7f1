"""Where runs and files are kept: SQLite through SQLAlchemy, and folders. Migrations are Alembic's."""
