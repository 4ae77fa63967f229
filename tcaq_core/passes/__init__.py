"""One paper term per file; each file states its invariant."""
