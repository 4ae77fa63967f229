"""Celery over the ledger: claims jobs, does the work, stores what it made."""
