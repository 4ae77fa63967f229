import subprocess
import sys

from starlette.testclient import TestClient

from jobs.settings import Settings
from service.app import create_app

BUILD_AND_LOOK = """
import sys
from service.app import create_app
app = create_app()
app.openapi()
assert "torch" not in sys.modules, "torch was imported"
assert "diffusers" not in sys.modules, "diffusers was imported"
print(app.state.resources.settings.data_directory)
"""


def test_the_service_process_never_imports_torch_and_reads_the_environment(
    settings: Settings,
) -> None:
    folder = str(settings.data_directory)
    done = subprocess.run(
        [sys.executable, "-c", BUILD_AND_LOOK],
        env={"TCAQ_DATA_DIRECTORY": folder},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == folder


def test_importing_the_service_writes_nothing_and_reads_no_settings() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import service.app"],
        env={"TCAQ_PORT": "not a port"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_two_applications_in_one_process_share_nothing(settings: Settings) -> None:
    other = settings.model_copy(
        update={"models_directory": settings.models_directory / "none"}
    )
    with (
        TestClient(create_app(settings)) as first,
        TestClient(create_app(other)) as second,
    ):
        assert len(first.get("/models").json()["data"]) == 1
        assert second.get("/models").json()["data"] == []
