"""What the caller would like: Accept (RFC 9110) and Prefer (RFC 7240)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from service.errors import NotAcceptable

_QUALITY: Final = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII)
_WAIT: Final = re.compile(r'wait\s*=\s*"?(\d{1,9})"?', re.ASCII)


@dataclass(frozen=True)
class Preferences:
    """What a Prefer header asks for, as far as it is understood."""

    wait_seconds: int | None
    respond_async: bool

    def patience(self, *, longest: float) -> float:
        """Return for how many seconds to hold the request, at most `longest`."""
        if self.wait_seconds is not None:
            return min(float(self.wait_seconds), longest)
        return 0.0 if self.respond_async else longest

    def applied(self) -> str | None:
        """Return the Preference-Applied header; None without a preference."""
        parts = ["respond-async"] if self.respond_async else []
        if self.wait_seconds is not None:
            parts.append(f"wait={self.wait_seconds}")
        return ", ".join(parts) or None


def parse_prefer(headers: Iterable[str]) -> Preferences:
    """Return the preferences in all Prefer headers; others are to be ignored."""
    tokens = [part.strip() for line in headers for part in line.lower().split(",")]
    waits = [match[1] for token in tokens if (match := _WAIT.fullmatch(token))]
    return Preferences(
        wait_seconds=int(waits[0]) if waits else None,
        respond_async="respond-async" in tokens,
    )


def choose(accept: Iterable[str], offers: Sequence[str]) -> str:
    """Return the media type on offer that the Accept headers want most.

    On a tie the earlier offer wins; without a header, the first.

    Raises:
        NotAcceptable: every offer is refused.
    """
    wanted = [part for line in accept for part in line.split(",") if part.strip()]
    if not wanted:
        return offers[0]
    ranges = [_media_range(part) for part in wanted]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(
            "None of the media types in Accept is on offer.",
            hint=f"On offer: {', '.join(offers)}.",
        )
    return best


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            value = value.strip()
            return name, float(value) if _QUALITY.fullmatch(value) else 0.0
    return name, 1.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    # The most specific range that matches decides: image/png over image/* over */*.
    for pattern in (offer, f"{offer.split('/', maxsplit=1)[0]}/*", "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0
