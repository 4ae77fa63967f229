"""HTTP over the ledger; this process never imports torch."""
