"""Opaque page cursors: a position in a listing, bound to the listing it came from."""

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from service.errors import RequestInvalid
from service.schemas.problem import FieldError

Position = tuple[datetime, UUID]

# Microseconds since the epoch, the job's UUID, and a check on both and the listing.
_LAYOUT: Final = struct.Struct(">Q16s8s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def encode(position: Position, *, listing: str) -> str:
    """Return the cursor of the page after `position` (creation time, id).

    `listing` names the filters and the order: a cursor is good for those only.
    """
    at, job_id = position
    micros = (at - _EPOCH) // timedelta(microseconds=1)
    packed = _LAYOUT.pack(micros, job_id.bytes, _check(micros, job_id, listing))
    return urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def decode(cursor: str, *, listing: str) -> Position:
    """Return the position that `encode` was given.

    The check is against mistakes, not against malice: a forged cursor gives no access
    that a listing without one does not give.

    Raises:
        RequestInvalid: damaged, made up, or of a listing with other filters.
    """
    try:
        packed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        micros, raw_id, check = _LAYOUT.unpack(packed)
    except (NotBase64, struct.error, ValueError) as error:
        raise _invalid() from error
    job_id = UUID(bytes=raw_id)
    if check != _check(micros, job_id, listing):
        raise _invalid()
    try:
        return _EPOCH + timedelta(microseconds=micros), job_id
    except OverflowError as error:
        raise _invalid() from error


def _invalid() -> RequestInvalid:
    detail = "after is not a cursor of this listing."
    error = FieldError(parameter="after", code="cursor_invalid", detail=detail)
    return RequestInvalid(
        detail,
        hint="Take `next` from a page with the same filters and order.",
        errors=(error,),
    )


def _check(micros: int, job_id: UUID, listing: str) -> bytes:
    message = f"{micros}:{job_id.hex}:{listing}".encode()
    return hashlib.sha256(message).digest()[:8]
