import json
import re
from pathlib import Path

import httpx2

from tests.client.answers import JOB_ID, PNG, evaluated, job, score, swept
from tests.client.command import always, documents, run


def test_watch_ends_with_the_scores_of_an_evaluation() -> None:
    result = run(documents(evaluated(score())), "watch", JOB_ID)
    assert result.stdout.splitlines() == [
        "100.0 %  succeeded",
        "runs integer (onednn-int8) on its worker",
        "quick: 2,000 images, integer; changed: num_images",
        "FD-tiny-net 12.5 [12, 13], full precision 10.25, delta +2.25 [2, 2.5]",
    ]


def test_watch_shows_the_scores_of_a_model_in_full_precision() -> None:
    alone = score(baseline=None, execution="full-precision")
    document = evaluated(alone)
    document["result"] |= {"execution": "full-precision", "execution_details": None}
    lines = run(documents(document), "watch", JOB_ID).stdout.splitlines()
    assert lines[1] == "runs full-precision on its worker"
    assert lines[-1] == "FD-tiny-net 12.5 [12, 13]"


def test_watch_ends_with_the_points_of_a_sweep() -> None:
    result = run(documents(swept()), "watch", JOB_ID)
    assert re.search(r"^W8A8S8 .* yes +0{63}8$", result.stdout, re.MULTILINE)
    assert re.search(r"^W4A8S8 .* 0{63}4$", result.stdout, re.MULTILINE)


def test_pareto_saves_the_picture_and_shows_the_points(tmp_path: Path) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.startswith("/artifacts/"):
            return httpx2.Response(200, content=PNG)
        return httpx2.Response(200, json=swept())

    out = tmp_path / "mine.png"
    result = run(answer, "pareto", JOB_ID, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == PNG
    assert result.stdout.splitlines()[-1] == str(out)
    assert "W4A8S8" in result.stdout
    as_json = run(answer, "pareto", JOB_ID, "--out", str(out), "--json")
    assert json.loads(as_json.stdout) == swept()["result"]["points"]


def test_pareto_of_another_job_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "mine.png"
    result = run(always(200, job()), "pareto", JOB_ID, "--out", str(out))
    assert result.exit_code == 2
    assert "no sweep" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_listed_with_their_kind() -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(dict(request.url.params))
        page = {"data": [evaluated(score())], "has_more": False, "next": None}
        return httpx2.Response(200, json=page)

    result = run(answer, "jobs", "--kind", "evaluate")
    assert re.search(rf"^{JOB_ID} +evaluate ", result.stdout, re.MULTILINE)
    assert asked[0]["kind"] == "evaluate"
