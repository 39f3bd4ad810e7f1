"""Where runs and files are kept: SQLite or PostgreSQL through SQLAlchemy, and folders. Migrations are Alembic's."""
