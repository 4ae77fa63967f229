"""One file per change, named by date; alembic reads them, nothing imports them."""
