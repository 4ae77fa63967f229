"""No Docker engine is needed: the file is checked against the schema and the code."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.queue import QUEUES
from jobs.settings import Settings
from jobs.up import programs
from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).parent / "data" / "compose-spec.json"
WORKERS = ("worker-quantize", "worker-sample", "worker-shards")
OURS = ("migrate", "service", *WORKERS, "beat")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_the_file_follows_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(compose)


def test_the_schema_would_notice_a_mistake(compose: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    wrong = {**compose, "services": {"db": {"imagee": "postgres"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(wrong)


def test_every_part_of_the_service_is_there(services: dict[str, Any]) -> None:
    assert set(services) == {"db", "redis", *OURS}


def test_migrate_runs_the_migrations_once(services: dict[str, Any]) -> None:
    assert services["migrate"]["restart"] == "no"
    python, flag, module = services["migrate"]["command"]
    assert (python, flag) == ("python", "-m")
    assert importlib.util.find_spec(module) is not None


def test_the_service_is_a_factory_that_exists(services: dict[str, Any]) -> None:
    command = services["service"]["command"]
    assert command[0] == "uvicorn"
    module, _, function = after(command, "--factory").partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert services["service"]["ports"] == [
        f"127.0.0.1:8000:{after(command, '--port')}"
    ]


@pytest.mark.parametrize("name", [*WORKERS, "beat"])
def test_celery_knows_what_it_is_asked_to_run(
    services: dict[str, Any], name: str, tmp_path: Path
) -> None:
    command = services[name]["command"]
    assert command[0] == "celery"
    options = [*command[1:], "--help"]
    result = subprocess.run(
        [sys.executable, "-m", "celery", *options],
        capture_output=True,
        text=True,
        check=False,
        env={"TCAQ_DATA_DIRECTORY": str(tmp_path), "LANG": "C.UTF-8"},
    )
    assert result.returncode == 0, result.stderr


def test_all_queues_have_a_worker(services: dict[str, Any]) -> None:
    listened = [
        after(services[name]["command"], "--queues").split(",") for name in WORKERS
    ]
    assert {queue for queues in listened for queue in queues} == set(QUEUES)


def test_sampling_waits_behind_nothing_long(services: dict[str, Any]) -> None:
    queues = after(services["worker-sample"]["command"], "--queues").split(",")
    assert set(queues) == {"sample", "maintenance"}


def test_workers_listen_to_what_those_of_tcaq_up_listen_to(
    services: dict[str, Any],
) -> None:
    started = {p.name: p.command for p in programs(Settings(), workers=1)}
    for name in WORKERS:
        own = name.removeprefix("worker-").replace("shards", "shards-1")
        here = after(services[name]["command"], "--queues")
        assert here == after(list(started[own]), "--queues")


def test_helpers_can_be_multiplied(services: dict[str, Any]) -> None:
    assert services["worker-shards"]["deploy"]["replicas"] >= 1


def test_folders_that_are_mounted_are_those_that_the_images_look_into(
    compose: dict[str, Any],
) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    mounted = dict(volume.split(":")[:2] for volume in compose["x-tcaq"]["volumes"])
    named = {"data": "DATA", "./models": "MODELS", "./evaluation": "EVALUATION"}
    for source, setting in named.items():
        assert f"TCAQ_{setting}_DIRECTORY={mounted[source]}" in dockerfile


def test_the_image_alone_listens_to_every_queue() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (.*--queues.*)$", dockerfile, re.MULTILINE)
    assert set(after(json.loads(command), "--queues").split(",")) == set(QUEUES)


@pytest.mark.parametrize("name", WORKERS)
def test_workers_reserve_a_gpu(services: dict[str, Any], name: str) -> None:
    reservations = services[name]["deploy"]["resources"]["reservations"]
    assert reservations["devices"][0]["capabilities"] == ["gpu"]


def test_a_worker_gives_its_job_back_when_it_is_stopped(
    services: dict[str, Any],
) -> None:
    signals = {p.name: p.stop_signal.name for p in programs(Settings(), workers=1)}
    for name in WORKERS:
        own = name.removeprefix("worker-").replace("shards", "shards-1")
        assert services[name]["stop_signal"] == signals[own]


@pytest.mark.parametrize("name", OURS)
def test_only_settings_that_exist_are_set(services: dict[str, Any], name: str) -> None:
    known = {f"TCAQ_{field.upper()}" for field in Settings.model_fields}
    assert set(services[name]["environment"]) <= known


@pytest.mark.parametrize("name", OURS)
def test_a_build_target_exists_for_every_image(
    services: dict[str, Any], name: str
) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    target = services[name]["build"]["target"]
    assert re.search(rf"^FROM \S+ AS {target}$", dockerfile, re.MULTILINE)
    assert services[name]["image"] == f"tcaq-{target}"


def test_the_image_without_torch_serves_and_migrates(services: dict[str, Any]) -> None:
    light = {name for name in OURS if services[name]["build"]["target"] == "service"}
    assert light == {"migrate", "service"}


def test_everything_that_stays_up_is_watched(services: dict[str, Any]) -> None:
    watched = {name for name, service in services.items() if "healthcheck" in service}
    assert watched == set(services) - {"migrate"}


@pytest.mark.parametrize("name", ["service", *WORKERS, "beat"])
def test_a_health_check_fails_where_nothing_answers(
    services: dict[str, Any], name: str, tmp_path: Path
) -> None:
    kind, program, *arguments = services[name]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    nowhere = f"127.0.0.1:{free_port()}"
    arguments[-1] = arguments[-1].replace("127.0.0.1:8000", nowhere)
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            "TCAQ_DATA_DIRECTORY": str(tmp_path),
            "TCAQ_BROKER_URL": f"redis://{nowhere}/0",
        },
    )
    assert result.returncode == 1
    assert "refused" in result.stderr or "does not answer" in result.stderr


@pytest.mark.parametrize("name", [*WORKERS, "beat"])
def test_a_worker_is_healthy_where_the_broker_answers(
    services: dict[str, Any], name: str, redis_url: str
) -> None:
    _, _, *arguments = services[name]["healthcheck"]["test"]
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"TCAQ_BROKER_URL": redis_url},
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_nothing_starts_before_the_schema_is_there(services: dict[str, Any]) -> None:
    for name in set(OURS) - {"migrate"}:
        condition = services[name]["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully"


def test_no_secret_is_in_the_file_nor_in_the_repository(
    compose: dict[str, Any], services: dict[str, Any]
) -> None:
    for name in ("db", *OURS):
        assert services[name]["env_file"].startswith("secrets/")
        environment = services[name]["environment"]
        assert not [key for key in environment if "PASSWORD" in key]
        assert not [value for value in environment.values() if "@" in value]
    tracked = subprocess.run(
        ["git", "ls-files", "secrets"],  # noqa: S607 - git is where the user has it
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tracked.stdout == ""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "secrets/" in ignored


def test_database_and_queue_are_not_reachable_from_outside(
    compose: dict[str, Any], services: dict[str, Any]
) -> None:
    assert compose["networks"]["inside"]["internal"] is True
    for name in ("db", "redis"):
        assert services[name]["networks"] == ["inside"]
        assert "ports" not in services[name]


def test_our_images_do_not_run_as_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)
    (base,) = [stage for stage in stages if " AS base\n" in stage]
    assert re.search(r"^USER tcaq$", base, re.MULTILINE)
    for target in ("service", "worker"):
        (stage,) = [stage for stage in stages if f" AS {target}\n" in stage]
        assert stage.startswith("base AS ")
        assert "USER" not in stage


def test_the_image_of_the_service_installs_no_torch() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(
        r"AS build-service\nRUN .*\n +pip install .*'\.\[service\]'", dockerfile
    )
