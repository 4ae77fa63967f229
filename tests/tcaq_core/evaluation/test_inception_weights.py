import hashlib
import io
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import HTTPSHandler

import pytest

from tcaq_core.errors import ExtractorUnavailable
from tcaq_core.evaluation.inception_weights import (
    FILE_NAME,
    SETTING,
    SHA256,
    check_file,
    check_setting,
    download,
    fetch,
    save_checked,
)

DATA = b"weights" * 1000
DATA_SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("setting", [None, ""])
def test_without_the_setting_the_refusal_says_what_to_set(setting: str | None) -> None:
    with pytest.raises(ExtractorUnavailable, match=SETTING) as refused:
        check_setting(setting)
    assert FILE_NAME in refused.value.hint
    assert SHA256 in refused.value.hint


def test_the_hash_is_the_one_that_the_file_s_name_begins_with() -> None:
    assert f"pt_inception-2015-12-05-{SHA256[:8]}.pth" == FILE_NAME
    assert len(SHA256) == 64


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(DATA)
    with pytest.raises(ExtractorUnavailable, match=DATA_SHA256):
        check_file(path)
    with pytest.raises(ExtractorUnavailable, match=DATA_SHA256):
        check_setting(str(path))
    with pytest.raises(ExtractorUnavailable, match=DATA_SHA256):
        fetch(str(path), cache=tmp_path / "cache")


@pytest.mark.parametrize("path", ["missing.pth", "."])
def test_a_path_without_a_file_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ExtractorUnavailable, match="cannot be read"):
        check_setting(str(tmp_path / path))


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "s3"])
def test_only_https_is_followed(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://127.0.0.1/{FILE_NAME}"
    with pytest.raises(ExtractorUnavailable, match="not https"):
        check_setting(url)
    with pytest.raises(ExtractorUnavailable, match="not https"):
        fetch(url, cache=tmp_path)


def test_an_https_url_is_not_asked_at_submit() -> None:
    check_setting(f"https://host.invalid/{FILE_NAME}")


def test_a_host_that_is_not_there_is_refused_without_the_url(tmp_path: Path) -> None:
    with pytest.raises(ExtractorUnavailable, match="downloaded") as refused:
        fetch("https://127.0.0.1:9/weights?token=secret", cache=tmp_path)
    assert "secret" not in f"{refused.value.detail} {refused.value.hint}"
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_download_left_is_checked_again(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(DATA)
    with pytest.raises(ExtractorUnavailable, match=DATA_SHA256):
        fetch("https://host.invalid/weights", cache=tmp_path)


def test_a_whole_stream_becomes_a_file(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "weights"
    save_checked(io.BytesIO(DATA), target, sha256=DATA_SHA256, max_bytes=len(DATA))
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    ("sha256", "max_bytes", "reason"),
    [(SHA256, len(DATA), DATA_SHA256), (DATA_SHA256, len(DATA) - 1, "more than")],
)
def test_a_wrong_or_endless_stream_leaves_no_file(
    tmp_path: Path, sha256: str, max_bytes: int, reason: str
) -> None:
    with pytest.raises(ExtractorUnavailable, match=reason):
        save_checked(
            io.BytesIO(DATA), tmp_path / "weights", sha256=sha256, max_bytes=max_bytes
        )
    assert not list(tmp_path.iterdir())


class Host(BaseHTTPRequestHandler):
    """Answers /weights, and redirects to it or away from https."""

    def do_GET(self) -> None:  # the base class's name
        host = self.headers["Host"]
        places = {
            "/again": f"https://{host}/weights",
            "/away": f"http://{host}/weights",
        }
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # theirs
        pass


@pytest.fixture(scope="module", name="certificate")
def make_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module", name="url")
def serve(certificate: Path) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Host) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.with_suffix(".crt"), certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(name="trusting")
def make_trusting(certificate: Path) -> HTTPSHandler:
    context = ssl.create_default_context(cafile=certificate.with_suffix(".crt"))
    return HTTPSHandler(context=context)


@pytest.mark.parametrize("path", ["weights", "again"])
def test_a_download_over_https_follows_redirects(
    tmp_path: Path, url: str, trusting: HTTPSHandler, path: str
) -> None:
    target = tmp_path / "weights"
    download(f"{url}/{path}", target, trusting, sha256=DATA_SHA256)
    assert target.read_bytes() == DATA


def test_no_redirect_leaves_https(
    tmp_path: Path, url: str, trusting: HTTPSHandler
) -> None:
    with pytest.raises(ExtractorUnavailable, match="not https"):
        download(f"{url}/away", tmp_path / "weights", trusting, sha256=DATA_SHA256)
    assert not list(tmp_path.iterdir())


def test_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(ExtractorUnavailable, match="downloaded"):
        fetch(f"{url}/weights", cache=tmp_path)
