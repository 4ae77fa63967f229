import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.client.answers import JOB_ID, job
from tests.client.command import always, run


def sent(*arguments: str) -> dict[str, Any]:
    """Return the body that a verb sends to POST /jobs."""
    requests = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(202, json=job())

    result = run(answer, *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{JOB_ID} queued; follow it with: tcaq watch {JOB_ID}\n"
    assert requests[0].url.path == "/jobs"
    body: dict[str, Any] = json.loads(requests[0].content)
    return body


def test_submit_asks_for_a_score_and_guards_it() -> None:
    body = sent(
        *("submit", "m", "-w", "4", "-a", "8", "--evaluate", "quick"),
        *("--metric", "fd", "--metric", "psnr_db"),
        *("--guard", "min_psnr_db=25", "--on-violation", "skip_layers"),
    )
    assert body["evaluation"] == {"protocol": "quick", "metrics": ["fd", "psnr_db"]}
    assert body["guards"] == {"min_psnr_db": 25, "on_violation": "skip_layers"}


def test_score_sends_what_was_said_and_leaves_the_rest_to_the_protocol() -> None:
    assert sent("score", JOB_ID) == {
        "kind": "evaluate",
        "target": {"job_id": JOB_ID},
        "evaluation": {"protocol": "quick"},
        "execution": "auto",
    }
    assert sent(
        *("score", "a" * 64, "--protocol", "cifar10-50k", "--metric", "fd"),
        *("--images", "500", "--steps", "20", "--extractor", "mine", "--seed", "7"),
        *("--reference", "ours", "--no-baseline", "--execution", "simulated"),
        *("--label", "team=a"),
    ) == {
        "kind": "evaluate",
        "target": {"checkpoint": "a" * 64},
        "evaluation": {
            "protocol": "cifar10-50k",
            "metrics": ["fd"],
            "num_images": 500,
            "num_steps": 20,
            "extractor": "mine",
            "reference": "ours",
            "seed": 7,
            "baseline": False,
        },
        "execution": "simulated",
        "labels": {"team": "a"},
    }


def test_sweep_sends_every_setting_and_recipe(tmp_path: Path) -> None:
    method = {"passes": [{"kind": "fit_ranges"}]}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(method))
    assert sent(
        *("sweep", "m", "--bits", "W8A8,W4A8S6", "--recipes", f"rtn,{file}"),
        *("--images", "500", "--calibration", "num_samples=2"),
    ) == {
        "kind": "sweep",
        "model": "m",
        "settings": [
            {"weight_bits": 8, "activation_bits": 8},
            {"weight_bits": 4, "activation_bits": 8, "softmax_bits": 6},
        ],
        "recipes": ["rtn", method],
        "calibration": {"num_samples": 2},
        "evaluation": {"protocol": "quick", "num_images": 500},
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "m", "--bits", "8"], "W4A8"),
        (["submit", "m", "-w", "4", "-a", "8", "--metric", "fd"], "protocol"),
        (["submit", "m", "-w", "4", "-a", "8", "--guard", "25"], "name=value"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(arguments: list[str], said: str) -> None:
    result = run(always(500, {}), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
