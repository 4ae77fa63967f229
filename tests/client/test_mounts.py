import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tcaq_client import mounts

ALONE = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jobs":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["tcaq", "up"]
from tcaq_client.cli import main
main()
"""


def greet(name: str, *, times: Annotated[int, typer.Option(min=1)] = 1) -> None:
    """Say hello."""
    typer.echo(f"hello {name}\n" * times, nl=False)


@pytest.fixture
def app() -> typer.Typer:
    """Return a command with one verb of its own and two that are mounted."""
    found = EntryPoints(
        [
            EntryPoint("greet", f"{__name__}:greet", mounts.GROUP),
            EntryPoint("later", "tcaq_not_installed:run", mounts.GROUP),
        ]
    )
    app = typer.Typer(no_args_is_help=True)
    app.command("own")(lambda: typer.echo("own"))
    mounts.mount(app, found, missing_exit_code=2)
    return app


def test_a_mounted_verb_reads_its_own_arguments(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["greet", "--times", "2", "you"])
    assert (result.exit_code, result.stdout) == (0, "hello you\nhello you\n")


def test_a_mounted_verb_has_its_own_help(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["greet", "--help"])
    assert result.exit_code == 0
    assert "Say hello." in result.stdout
    assert "--times" in result.stdout


def test_a_mounted_verb_refuses_wrong_usage_itself(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["greet", "--times", "0", "you"])
    assert result.exit_code == 2


def test_all_verbs_are_listed_without_importing_the_mounted_ones(
    app: typer.Typer,
) -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for verb in ("own", "greet", "later"):
        assert verb in result.stdout


def test_a_verb_whose_package_is_missing_says_what_to_install(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["later"])
    assert result.exit_code == 2
    assert "tcaq_not_installed" in result.stderr
    assert "pip install" in result.stderr


def test_the_client_alone_starts_without_the_ledger(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "tcaq up needs jobs" in result.stderr
    assert "Traceback" not in result.stderr
