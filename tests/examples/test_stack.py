import sys
from pathlib import Path

import httpx2
import pytest

from examples.stack import Stack, StackFailed, processes_with

# A stand-in for `tcaq up`: what is tested here is how it is started and stopped.
SERVER = """
import http.server, os, subprocess, sys

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["TCAQ_DATA_DIRECTORY"].encode())

print("starting", flush=True)
{extra}
address = ("127.0.0.1", int(os.environ["TCAQ_PORT"]))
http.server.HTTPServer(address, Ready).serve_forever()
"""
# A new session: neither the process group nor the parent's end reaches it.
ORPHAN = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
DIES = "sys.exit('no port left')"


def stack(tmp_path: Path, extra: str = "") -> Stack:
    return Stack(
        data=tmp_path / "data",
        log=tmp_path / "stack.log",
        command=(sys.executable, "-c", SERVER.format(extra=extra)),
    )


def test_the_stack_is_ready_on_entry_and_gone_on_exit(tmp_path: Path) -> None:
    with stack(tmp_path) as running:
        answer = httpx2.get(running.url, trust_env=False)
        assert answer.text == str(tmp_path / "data")
        assert (tmp_path / "data").is_dir()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(running.url, trust_env=False)
    assert not (tmp_path / "data").exists()
    assert running.last_words().startswith("starting")


def test_it_is_stopped_when_the_work_fails(tmp_path: Path) -> None:
    running = stack(tmp_path)
    with pytest.raises(ZeroDivisionError), running:
        raise ZeroDivisionError
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(running.url, trust_env=False)


def test_a_stack_that_dies_is_reported_at_once(tmp_path: Path) -> None:
    failing = stack(tmp_path, DIES)
    with pytest.raises(StackFailed, match="exit code 1"), failing:
        pytest.fail("it cannot be ready")
    assert "no port left" in failing.last_words()
    assert not (tmp_path / "data").exists()


def test_a_process_that_stays_behind_is_killed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.stack.GONE_SECONDS", 0.5)
    mine = f"TCAQ_DATA_DIRECTORY={tmp_path / 'data'}"
    with (
        pytest.raises(StackFailed, match="left processes behind"),
        stack(tmp_path, ORPHAN),
    ):
        assert len(processes_with(mine)) == 2
    while processes_with(mine):  # the kernel takes a moment
        pass


def test_the_logs_of_its_processes_are_kept(tmp_path: Path) -> None:
    with stack(tmp_path) as running:
        (tmp_path / "data" / "logs").mkdir()
        (tmp_path / "data" / "logs" / "quantize.log").write_text("claimed\n")
    log = (tmp_path / "stack.log").read_text()
    assert "== quantize.log ==\nclaimed" in log
    assert "claimed" not in running.last_words()


def test_settings_of_the_caller_do_not_reach_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCAQ_DATABASE_URL", "postgresql://elsewhere/production")
    asserting = "assert 'TCAQ_DATABASE_URL' not in os.environ"
    with stack(tmp_path, asserting):
        pass
