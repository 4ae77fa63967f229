import io
from typing import Any

import pytest
from rich.console import Console

from tcaq_client import score_screen
from tcaq_client.results import Job
from tcaq_client.scores import Score
from tests.client.answers import evaluated, score, succeeded, swept


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "FD-tiny-net 12.5 [12, 13], full precision 10.25, delta +2.25 [2, 2.5]",
        ),
        ({"baseline": None}, "FD-tiny-net 12.5 [12, 13]"),
        ({"baseline": None, "ci95": None}, "FD-tiny-net 12.5"),
        ({"baseline": None, "ci95": None, "value": None}, "FD-tiny-net infinite"),
        (
            {"baseline": {"value": 14.0, "delta": -1.5}},
            "FD-tiny-net 12.5 [12, 13], full precision 14, delta -1.5",
        ),
        (
            {"value": 123.456789, "ci95": [0.00012345, 1e6], "baseline": None},
            "FD-tiny-net 123.5 [0.0001234, 1e+06]",
        ),
    ],
)
def test_a_score_is_shown_with_its_interval_baseline_and_delta(
    changes: dict[str, Any], text: str
) -> None:
    assert score_screen.score_text(Score.from_json(score(**changes))) == text


def test_scores_begin_with_what_they_are_of() -> None:
    first = score(baseline=None, ci95=None)
    second = score("psnr_db", label="psnr_db", baseline=None, ci95=None, notes=["x"])
    assert score_screen.score_lines(Job.from_json(evaluated(first, second))) == [
        "quick: 2,000 images, integer; changed: num_images",
        "FD-tiny-net 12.5",
        "psnr_db 12.5",
        "  note: x",
    ]


def test_a_protocol_that_was_kept_is_only_named() -> None:
    kept = score(protocol={"name": "cifar10-50k", "changed": []}, n_generated=50_000)
    (first, *_) = score_screen.score_lines(Job.from_json(evaluated(kept)))
    assert first == "cifar10-50k: 50,000 images, integer"


def test_a_job_without_scores_shows_none() -> None:
    assert score_screen.score_lines(Job.from_json(succeeded())) == []


@pytest.mark.parametrize(
    ("satisfied", "line"),
    [(True, "guards: kept, checked 2 times"), (False, "guards: not kept, checked 2")],
)
def test_what_the_guards_did_is_said(*, satisfied: bool, line: str) -> None:
    rounds: list[dict[str, object]] = [{"changed": {}, "values": {}}] * 2
    result = {"guards": {"satisfied": satisfied, "rounds": rounds}}
    document = {**succeeded(), "result": result}
    (shown,) = score_screen.score_lines(Job.from_json(document))
    assert shown.startswith(line)


def test_points_are_rows_with_whole_hashes() -> None:
    output = io.StringIO()
    console = Console(file=output, width=160)
    console.print(score_screen.points_table(Job.from_json(swept()).points))
    _, first, second = output.getvalue().splitlines()
    assert first.split() == [
        *("W8A8S8", "rtn", "2,400,000", "12.3", "12.5", "FD-tiny-net", "yes"),
        f"{8:064x}",
    ]
    assert second.split() == [
        *("W4A8S8", "rtn", "2,400,000"),
        f"{4:064x}",
    ]
