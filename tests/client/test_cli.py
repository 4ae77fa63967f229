import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from tcaq_client import Client
from tcaq_client.cli import app
from tests.client.answers import JOB_ID, PNG, failed, job, problem, running, sample, tar
from tests.client.test_transfer import Body

Handler = Callable[[httpx2.Request], httpx2.Response]
URL = "http://service"


def run(handler: Handler, *arguments: str, **options: Any) -> Result:  # noqa: ANN401
    """Run the command against a service that is a function."""

    def connect(url: str) -> Client:
        transport = httpx2.MockTransport(handler)
        return Client(url, transport=transport, sleep=lambda _: None)

    return CliRunner().invoke(app, [*arguments], obj=connect, **options)


def always(status: int, document: object) -> Handler:
    return lambda _: httpx2.Response(status, json=document)


def in_turn(*documents: object) -> Handler:
    queue = iter(documents)
    return lambda _: httpx2.Response(200, json=next(queue))


def refuse_connection(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("Connection refused")


def test_submit_prints_the_id_and_what_to_do_next() -> None:
    requests = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(202, json=job())

    result = run(
        answer,
        *("submit", "ddpm-cifar10-small", "-w", "4", "-a", "8"),
        *("--calibration", "num_samples=8", "--calibration", "eta=0.5"),
        *("--label", "team=a", "--softmax-bits", "6"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{JOB_ID} queued; follow it with: tcaq watch {JOB_ID}\n"
    assert json.loads(requests[0].content) == {
        "model": "ddpm-cifar10-small",
        "weight_bits": 4,
        "activation_bits": 8,
        "recipe": "tcaq",
        "softmax_bits": 6,
        "calibration": {"num_samples": 8, "eta": 0.5},
        "labels": {"team": "a"},
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


def test_the_url_comes_from_the_environment_or_the_option() -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.host)
        return httpx2.Response(200, json={"object": "list", "data": []})

    run(answer, "models", env={"TCAQ_URL": "http://from-environment"})
    run(answer, "models", "--url", URL, env={"TCAQ_URL": "http://from-environment"})
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
    states = in_turn(
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


def test_watch_as_json_prints_one_object_per_line() -> None:
    states = [running("tcr", 20.0), job("succeeded")]
    result = run(in_turn(*states), "watch", JOB_ID, "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == states


def test_watching_a_job_that_fails_exits_with_4_and_the_hint() -> None:
    result = run(always(200, failed()), "watch", JOB_ID)
    assert result.exit_code == 4
    assert "The loss of up_blocks.1 became NaN. (diverged)" in result.stderr
    assert "hint: Lower par.learning_rate." in result.stderr


def test_watching_a_job_that_is_cancelled_exits_with_4() -> None:
    result = run(always(200, job("cancelled")), "watch", JOB_ID)
    assert result.exit_code == 4
    assert result.stderr == f"error: {JOB_ID} was cancelled.\n"


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


def test_download_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    result = run(refuse_connection, "download", JOB_ID, str(tmp_path / "mine"))
    assert result.exit_code == 2
    assert "already exists" in result.stderr


def drawing(request: httpx2.Request) -> httpx2.Response:
    if request.url.path == "/sample":
        return httpx2.Response(200, json=sample())
    return httpx2.Response(200, content=PNG)


def test_sample_saves_the_grid_and_says_how_good_it_is(tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    result = run(
        drawing,
        *("sample", JOB_ID, "-n", "2", "--seed", "5", "--compare-to", "baseline"),
        *("--out", str(out)),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}: 2 images, simulated, 0.25 s each, PSNR 31.50 dB\n"
    assert out.read_bytes() == PNG
    assert list(tmp_path.iterdir()) == [out]


def test_sample_into_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "grid.png"
    result = run(drawing, "sample", JOB_ID, "--out", str(out))
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


@pytest.mark.parametrize(
    ("verb", "document"),
    [
        (["submit", "m", "-w", "4", "-a", "8"], job()),
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


def test_control_characters_of_a_service_do_not_reach_the_terminal() -> None:
    document = problem(404, "job_not_found", detail="No \x1b[31mjob\x07.")
    result = run(always(404, document), "watch", JOB_ID)
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr
