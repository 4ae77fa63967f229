from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.evaluations import QUICK
from tests.service.models import W4A8
from tests.service.refusals import refused


@pytest.mark.parametrize(
    ("guards", "evaluation", "said", "hint"),
    [
        ({"min_psnr_db": 20}, None, "no evaluation", '"evaluation"'),
        ({"max_fid_increase": 1}, QUICK, "does not measure ['fid']", "metrics"),
        (
            {"min_psnr_db": 20, "max_fd_increase": 1},
            QUICK | {"metrics": ["psnr_db"]},
            "does not measure ['fd']",
            "metrics",
        ),
        (
            {"max_fd_increase": 1},
            QUICK | {"baseline": False},
            "no baseline",
            '"baseline": true',
        ),
        ({}, QUICK, "name a limit", "errors"),
        ({"on_violation": "fail"}, QUICK, "name a limit", "errors"),
    ],
)
def test_a_guard_needs_what_it_limits_to_be_measured(
    client: TestClient,
    guards: dict[str, Any],
    evaluation: dict[str, Any] | None,
    said: str,
    hint: str,
) -> None:
    problem = refused(client, W4A8 | {"evaluation": evaluation, "guards": guards})
    assert (problem["status"], problem["code"]) == (422, "request_invalid")
    assert problem["pointer"] == "/guards"
    assert said in problem["error"]["detail"]
    assert hint in problem["hint"]


@pytest.mark.parametrize(
    ("guards", "pointer"),
    [
        ({"min_psnr_db": -1}, "/guards/min_psnr_db"),
        ({"min_psnr_db": 20, "on_violation": "pray"}, "/guards/on_violation"),
        ({"min_psnr_db": 20, "max_rounds": 9}, "/guards/max_rounds"),
        ({"min_ssim": 1}, "/guards/min_ssim"),
    ],
)
def test_a_guard_outside_its_schema_is_refused_at_the_field(
    client: TestClient, guards: dict[str, Any], pointer: str
) -> None:
    problem = refused(client, W4A8 | {"evaluation": QUICK, "guards": guards})
    assert problem["pointer"] == pointer
