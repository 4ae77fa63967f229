from pathlib import Path

import pytest

from tests.client.answers import JOB_ID, failed, job, problem
from tests.client.command import always, drawing, refuse_connection, run


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "m", "-w", "4"],
        ["submit", "m", "-w", "four", "-a", "8"],
        ["submit", "m", "-w", "4", "-a", "8", "--recipe", "missing.json"],
        ["submit", "m", "-w", "4", "-a", "8", "--label", "team"],
        ["submit", "m", "-w", "4", "-a", "8", "--calibration", "seed=one"],
        ["jobs", "--url", "localhost:8000"],
        ["jobs", "--limit", "0"],
        ["watch"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_asks_nothing(arguments: list[str]) -> None:
    result = run(refuse_connection, *arguments)
    assert result.exit_code == 2, result.output
    assert "rror" in result.stderr
    assert "Traceback" not in result.output


EVERY_VERB = [
    ["submit", "m", "-w", "4", "-a", "8"],
    ["jobs"],
    ["watch", JOB_ID],
    ["cancel", JOB_ID],
    ["download", JOB_ID, "new-folder"],
    ["sample", JOB_ID],
    ["models"],
    ["recipes"],
]


@pytest.mark.parametrize("verb", EVERY_VERB, ids=lambda verb: verb[0])
def test_a_problem_exits_with_1_and_shows_field_values_and_hint(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = problem(
        422,
        "request_invalid",
        detail="One field is not valid.",
        hint="See GET /recipes.",
        errors=[
            {
                "pointer": "/weight_bits",
                "code": "too_large",
                "detail": "9 is too large.",
                "allowed": [2, 3],
            }
        ],
    )
    result = run(always(422, document), *verb)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "error: One field is not valid. (422 request_invalid)\n"
        "  /weight_bits: 9 is too large. (allowed: 2, 3)\n"
        "  hint: See GET /recipes.\n"
        "  request: req-1\n"
    )


@pytest.mark.parametrize("verb", EVERY_VERB, ids=lambda verb: verb[0])
def test_no_connection_exits_with_3(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(refuse_connection, *verb)
    assert result.exit_code == 3
    assert "No answer from http://127.0.0.1:8000" in result.stderr
    assert "tcaq up" in result.stderr


def test_watching_a_job_that_fails_exits_with_4_and_the_hint() -> None:
    result = run(always(200, failed()), "watch", JOB_ID)
    assert result.exit_code == 4
    assert "The loss of up_blocks.1 became NaN. (diverged)" in result.stderr
    assert "hint: Lower par.learning_rate." in result.stderr


def test_watching_a_job_that_is_cancelled_exits_with_4() -> None:
    result = run(always(200, job("cancelled")), "watch", JOB_ID)
    assert result.exit_code == 4
    assert result.stderr == f"error: {JOB_ID} was cancelled.\n"


def test_download_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    result = run(refuse_connection, "download", JOB_ID, str(tmp_path / "mine"))
    assert result.exit_code == 2
    assert "already exists" in result.stderr


def test_sample_into_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "grid.png"
    result = run(drawing, "sample", JOB_ID, "--out", str(out))
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_control_characters_of_a_service_do_not_reach_the_terminal() -> None:
    document = problem(404, "job_not_found", detail="No \x1b[31mjob\x07.")
    result = run(always(404, document), "watch", JOB_ID)
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr
