import io

import pytest
from rich.console import Console

from tcaq_client import screen
from tcaq_client.results import Job
from tests.client.answers import JOB_ID, job, running


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (42, "42 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_a_duration_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert screen.duration_text(seconds) == text


def test_a_terminal_gets_a_bar_with_stage_percent_and_time_left() -> None:
    output = io.StringIO()
    terminal = Console(
        file=output, force_terminal=True, width=120, legacy_windows=False
    )
    with screen.progress_of(JOB_ID, terminal) as show:
        show(Job.from_json(running("daq", 41.8)))
    assert "daq 4/7, 17/38 block" in output.getvalue()
    assert "41.8 %" in output.getvalue()
    assert "about 3 min 20 s left" in output.getvalue()


def test_a_stage_is_not_taken_for_markup() -> None:
    output = io.StringIO()
    terminal = Console(
        file=output, force_terminal=True, width=120, legacy_windows=False
    )
    with screen.progress_of(JOB_ID, terminal) as show:
        show(Job.from_json(running("[bold]daq[/bold]", 41.8)))
    assert "[bold]daq[/bold]" in output.getvalue()


def test_a_job_that_is_being_cancelled_says_so_with_its_stage() -> None:
    cancelling = Job.from_json({**running("daq", 41.8), "status": "cancelling"})
    assert screen.stage_text(cancelling) == "cancelling: daq 4/7, 17/38 block"


def test_a_job_that_was_given_back_is_queued_and_nothing_else() -> None:
    queued = Job.from_json({**running("daq", 41.8), "status": "queued"})
    assert screen.stage_text(queued) == "queued"


def test_a_stage_without_units_is_shown_without_them() -> None:
    document = job("running", stage={"name": "save", "index": 5, "count": 7})
    assert screen.stage_text(Job.from_json(document)) == "save 6/7"


def test_nothing_is_promised_about_a_finished_job() -> None:
    done = Job.from_json({**running("daq", 41.8), "status": "succeeded"})
    assert screen.eta_text(done) == ""
    assert screen.stage_text(done) == "succeeded"


def test_what_could_not_be_measured_is_not_printed() -> None:
    result = {"execution": None, "execution_details": None, "benchmark": None}
    assert screen.result_lines(Job.from_json(job("succeeded", result=result))) == []
