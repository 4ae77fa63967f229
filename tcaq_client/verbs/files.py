"""Small files that a verb writes."""

from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
