"""Looking after it: backup and restore, crash loops, and whether the database is sound."""

from nanoclaw.store.copy import findings as integrity

__all__ = ["integrity"]
