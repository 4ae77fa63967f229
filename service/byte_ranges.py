"""Conditional and range requests on immutable content (RFC 9110, 13 and 14)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.errors import RangeUnsatisfiable

_ETAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
# Enough digits for any file; a longer number is no range that a client means.
_SINGLE: Final = re.compile(r"(?i:bytes)=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `stop` (exclusive) of content of `size` bytes."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.stop - self.start

    @property
    def content_range(self) -> str:
        """The Content-Range header."""
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


def matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether the caller has this content already, by weak comparison."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    known = _ETAG.findall(if_none_match)
    return etag.removeprefix("W/") in {item.removeprefix("W/") for item in known}


def select(headers: Mapping[str, str], *, etag: str, size: int) -> Span | None:
    """Return the part that Range asks for; None: all of it.

    A header that cannot be understood, another unit, several ranges at once, or an
    If-Range that does not match mean the whole content, as the RFC allows or demands.

    Raises:
        RangeUnsatisfiable: the range lies outside the content (416, Content-Range).
    """
    if headers.get("if-range", etag).strip() != etag:
        return None
    match = _SINGLE.fullmatch(headers.get("range", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start = int(match[1])
        stop = min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, stop = max(size - int(match[2]), 0), size
    if start >= stop:
        raise RangeUnsatisfiable(
            f"The content has {size} bytes; the range asks for none of them.",
            hint="Ask for bytes=0- or less, or leave the Range header out.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Span(start, stop, size)
