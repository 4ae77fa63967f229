import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def test_the_import_contracts_are_kept() -> None:
    result = subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


# The contracts follow imports between modules; what a package's own __init__ loads is
# an edge they do not see.
@pytest.mark.parametrize(
    "module",
    [
        "tcaq_core",
        "tcaq_core.recipe",
        "tcaq_core.errors",
        "tcaq_core.model_folder",
        "jobs.repository",
        "jobs.queue",
        "service.app",
        "worker.app",
        "migrations.upgrade",
        "tcaq_client",
        "tcaq_client.cli",
    ],
)
def test_importing_it_does_not_load_torch(module: str, tmp_path: Path) -> None:
    loaded = loaded_by(module, tmp_path)
    assert not {"torch", "diffusers"} & loaded


def test_the_client_loads_nothing_of_ours(tmp_path: Path) -> None:
    ours = {"jobs", "service", "worker", "tcaq_core", "migrations"}
    assert not ours & loaded_by("tcaq_client.cli", tmp_path)


def loaded_by(module: str, folder: Path) -> set[str]:
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"TCAQ_DATA_DIRECTORY": str(folder)},
    )
    return set(result.stdout.splitlines())
