"""The FID network's canonical weights: known by hash, never by name alone; torch-free.

2015-12-05 is the date of the TensorFlow graph that FID was defined with (1706.08500);
the file is its conversion to PyTorch by pytorch-fid, which torch-fidelity uses too.
"""

import hashlib
import io
import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import (
    BaseHandler,
    HTTPRedirectHandler,
    Request,
    build_opener,
)

from tcaq_core.errors import ExtractorUnavailable
from tcaq_core.evaluation.file_hash import sha256_of
from tcaq_core.evaluation.protocols import INCEPTION

FILE_NAME: Final = "pt_inception-2015-12-05-6726825d.pth"
SHA256: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SETTING: Final = "TCAQ_INCEPTION_WEIGHTS"
MAX_BYTES: Final = 256 * 2**20
"""The file has about 91 MiB; a download ends here whatever comes."""
TIMEOUT_SECONDS: Final = 60.0
HINT: Final = (
    f"Set {SETTING} to a copy of {FILE_NAME} (sha256 {SHA256}), a path or an https "
    "URL, for the server and every worker; or name another extractor."
)


def check_setting(setting: str | None) -> None:
    """Look whether the setting can be what it should; a URL is not fetched.

    Raises:
        ExtractorUnavailable: nothing is set, no such file, another file, or a URL that
            is not https.
    """
    if not setting:
        raise ExtractorUnavailable(
            f"{INCEPTION} needs the canonical weights, and {SETTING} is not set.",
            hint=HINT,
        )
    if is_url(setting):
        _require_https(setting)
    else:
        check_file(Path(setting))


def is_url(setting: str) -> bool:
    """Return whether the setting is a URL, of whatever scheme, and not a path."""
    return "://" in setting


def check_file(path: Path) -> None:
    """Compare a file with the canonical hash.

    Raises:
        ExtractorUnavailable: no such file, or another one.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ExtractorUnavailable(
            f"{INCEPTION}'s weights cannot be read: there is no file {path.name}.",
            hint=HINT,
        ) from error
    if found != SHA256:
        raise ExtractorUnavailable(
            f"{path.name} is not {FILE_NAME}: its sha256 is {found}.", hint=HINT
        )


def fetch(setting: str | None, *, cache: Path) -> Path:
    """Return the weights' path; a URL is downloaded once, to the folder `cache`.

    Raises:
        ExtractorUnavailable: as `check_setting`, or what the URL gives is not the file.
    """
    check_setting(setting)
    if setting is None or not is_url(setting):
        return Path(setting or "")
    target = cache / FILE_NAME
    if target.is_file():
        check_file(target)
        return target
    download(setting, target, sha256=SHA256)
    return target


def download(url: str, target: Path, *handlers: BaseHandler, sha256: str) -> None:
    """Write what an https URL gives to a file, if it has that hash.

    `handlers` take the place of urllib's: trust in a host of one's own, say.

    Raises:
        ExtractorUnavailable: it cannot be reached, leads away from https, is too large
            or another file.
    """
    opener = build_opener(HttpsOnly, *handlers)
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as source:
            save_checked(source, target, sha256=sha256, max_bytes=MAX_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        # The URL may hold a token: it is not repeated.
        raise ExtractorUnavailable(
            f"{INCEPTION}'s weights could not be downloaded: {type(error).__name__}.",
            hint=HINT,
        ) from error


def save_checked(
    source: io.BufferedIOBase, target: Path, *, sha256: str, max_bytes: int
) -> None:
    """Write a stream to a file that appears only when whole and of the right hash.

    Raises:
        ExtractorUnavailable: more than `max_bytes`, or another hash.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as file:
            while block := source.read(2**20):
                size += len(block)
                if size > max_bytes:
                    raise ExtractorUnavailable(
                        f"The download has more than {max_bytes} bytes.", hint=HINT
                    )
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != sha256:
            raise ExtractorUnavailable(
                f"What was downloaded is not {target.name}: its sha256 is "
                f"{digest.hexdigest()}.",
                hint=HINT,
            )
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


class HttpsOnly(HTTPRedirectHandler):
    """Follows redirects, but none that leaves https."""

    def redirect_request(  # noqa: PLR0917 # the base class's signature
        self,
        req: Request,
        fp: object,
        code: int,
        msg: str,
        headers: object,
        newurl: str,
    ) -> Request | None:
        """Return the next request.

        Raises:
            ExtractorUnavailable: it would not be https.
        """
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type] # typeshed names classes of its own


def _require_https(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise ExtractorUnavailable(
            f"{SETTING} leads to a URL that is not https.", hint=HINT
        )
