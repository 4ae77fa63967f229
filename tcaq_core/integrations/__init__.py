"""Other libraries that open what we save."""
