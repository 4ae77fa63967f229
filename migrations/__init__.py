"""The ledger's schema, version by version, on SQLite and PostgreSQL."""
