"""What crosses the wire: one file per noun."""
