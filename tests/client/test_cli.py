import hashlib
import json
import re
from pathlib import Path

import httpx2
import pytest

from tests.client.answers import JOB_ID, PNG, job, running, sample, succeeded, tar
from tests.client.command import always, documents, drawing, run
from tests.client.test_transfer import Body


def test_submit_prints_the_id_and_what_to_do_next() -> None:
    requests = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(202, json=job())

    result = run(
        answer,
        *("submit", "ddpm-cifar10-small", "-w", "4", "-a", "8"),
        *("--calibration", "num_samples=8", "--calibration", "eta=0.5"),
        *("--label", "team=a", "--softmax-bits", "6", "--export", "onnx"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{JOB_ID} queued; follow it with: tcaq watch {JOB_ID}\n"
    assert json.loads(requests[0].content) == {
        "model": "ddpm-cifar10-small",
        "weight_bits": 4,
        "activation_bits": 8,
        "recipe": "standard",
        "softmax_bits": 6,
        "calibration": {"num_samples": 8, "eta": 0.5},
        "labels": {"team": "a"},
        "exports": ["onnx"],
    }


def test_submit_takes_a_recipe_from_a_file(tmp_path: Path) -> None:
    method = {"passes": [{"kind": "fit_ranges"}]}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(method))
    bodies = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(202, json=job())

    run(answer, "submit", "m", "-w", "4", "-a", "8", "--recipe", str(file))
    assert bodies[0]["recipe"] == method


def test_the_url_comes_from_the_environment_or_the_option() -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.host)
        return httpx2.Response(200, json={"object": "list", "data": []})

    run(answer, "models", env={"TCAQ_URL": "http://from-environment"})
    run(
        answer,
        "models",
        "--url",
        "http://service",
        env={"TCAQ_URL": "http://from-environment"},
    )
    run(answer, "models", env={"TCAQ_URL": None})
    assert seen == ["from-environment", "service", "127.0.0.1"]


def test_jobs_shows_whole_ids_even_in_a_pipe() -> None:
    page = {
        "data": [running("daq", 41.8), job("succeeded", model={"reference": "m" * 90})],
        "has_more": False,
        "next": None,
    }
    result = run(always(200, page), "jobs")
    assert result.exit_code == 0
    first, second = re.findall(f"^{JOB_ID}.*$", result.stdout, re.MULTILINE)
    assert re.search(r"W4A8 +daq 4/7, 17/38 block +42 % +2026-11-20 10:00", first)
    assert "succeeded" in second


def test_jobs_stops_at_the_limit() -> None:
    pages = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        pages.append(dict(request.url.params))
        data = [job(), job()]
        page = {"data": data, "has_more": True, "next": "cursor"}
        return httpx2.Response(200, json=page)

    result = run(answer, "jobs", "--limit", "3", "--status", "queued", "--json")
    assert len(json.loads(result.stdout)) == 3
    assert [page["limit"] for page in pages] == ["3", "3"]
    assert pages[0]["status"] == "queued"


def test_watch_prints_lines_where_there_is_no_terminal() -> None:
    states = documents(
        job(),
        running("tcr", 20.0),
        running("tcr", 21.0),
        running("daq", 41.8),
        job("succeeded", progress={"percent": 100.0}),
    )
    result = run(states, "watch", JOB_ID)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "  0.0 %  queued",
        " 20.0 %  tcr 4/7, 17/38 block  about 3 min 20 s left",
        " 41.8 %  daq 4/7, 17/38 block  about 3 min 20 s left",
        "100.0 %  succeeded",
    ]


def test_watch_ends_with_what_the_checkpoint_runs_on_and_how_fast() -> None:
    result = run(documents(succeeded()), "watch", JOB_ID)
    assert result.stdout.splitlines() == [
        "100.0 %  succeeded",
        "runs integer (onednn-int8) on its worker",
        "speed: 5.50 x float32, 1.90 x bfloat16",
    ]


def test_an_onnx_file_is_downloaded_to_a_new_file(tmp_path: Path) -> None:
    etag = f'"{hashlib.sha256(PNG).hexdigest()}"'

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == f"/jobs/{JOB_ID}/onnx"
        return httpx2.Response(200, headers={"ETag": etag}, stream=Body(PNG))

    file = tmp_path / "mine.onnx"
    result = run(answer, "download", JOB_ID, str(file), "--onnx")
    assert (result.exit_code, result.stdout) == (0, f"{file}\n")
    assert file.read_bytes() == PNG
    assert list(tmp_path.iterdir()) == [file]
    again = run(answer, "download", JOB_ID, str(file), "--onnx")
    assert again.exit_code == 2
    assert "already exists" in again.stderr


def test_watch_as_json_prints_one_object_per_line() -> None:
    states = [running("tcr", 20.0), job("succeeded")]
    result = run(documents(*states), "watch", JOB_ID, "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == states


def test_cancel_says_what_the_job_is_now() -> None:
    result = run(always(202, job("cancelling")), "cancel", JOB_ID)
    assert (result.exit_code, result.stdout) == (0, f"{JOB_ID} cancelling\n")


def test_download_prints_the_new_folder(tmp_path: Path) -> None:
    content = tar({"manifest.json": b"{}"})
    etag = f'"{hashlib.sha256(content).hexdigest()}"'

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"ETag": etag}, stream=Body(content))

    folder = tmp_path / "mine"
    result = run(answer, "download", JOB_ID, str(folder))
    assert (result.exit_code, result.stdout) == (0, f"{folder}\n")
    assert (folder / "manifest.json").read_bytes() == b"{}"


def test_sample_saves_the_grid_and_says_how_good_it_is(tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    result = run(
        drawing,
        *("sample", JOB_ID, "-n", "2", "--seed", "5", "--compare-to", "baseline"),
        *("--out", str(out)),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        f"{out}: 2 images, integer (onednn-int8), 0.25 s each, PSNR 31.50 dB\n"
    )
    assert out.read_bytes() == PNG
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("verb", "document"),
    [
        (["submit", "m", "-w", "4", "-a", "8"], job()),
        (["score", "m"], job(kind="evaluate")),
        (["sweep", "m", "--bits", "W4A8"], job(kind="sweep")),
        (["cancel", JOB_ID], job("cancelling")),
        (["sample", JOB_ID, "--out", "{out}"], sample()),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_json_is_the_object_of_the_service(
    verb: list[str], document: object, tmp_path: Path
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.startswith("/artifacts/"):
            return httpx2.Response(200, content=PNG)
        return httpx2.Response(200, json=document)

    arguments = [a.format(out=tmp_path / "grid.png") for a in verb]
    result = run(answer, *arguments, "--json")
    assert json.loads(result.stdout) == document


@pytest.mark.parametrize("verb", ["models", "recipes"])
def test_a_catalog_is_a_table_or_json(verb: str) -> None:
    item = {
        "name": "this-one",
        "usable": False,
        "reason": "It is [red]pickled[/red].",
        "description": "It is [red]pickled[/red].",
        "recipe": {"method": {"passes": [{"kind": "fit_ranges"}]}},
    }
    page = {"object": "list", "data": [item]}
    shown = run(always(200, page), verb)
    # A service's words are shown as they are, not as markup.
    assert "It is [red]pickled[/red]." in shown.stdout
    assert json.loads(run(always(200, page), verb, "--json").stdout) == [item]
