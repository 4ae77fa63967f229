import os
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def recipe_of(target: str) -> list[str]:
    """Return the commands that make would run for a target, without its setup."""
    # -o: the stamp counts as new, so that only the target's own commands are printed.
    result = subprocess.run(
        ["make", "--dry-run", "-o", ".venv/.installed", target],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "0"},
    )
    return [line for line in result.stdout.splitlines() if line.startswith(".venv/")]


def test_pre_commit_calls_the_commands_of_make_check() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == recipe_of("check")


def test_ci_runs_check_and_test_and_fails_if_either_fails(tmp_path: Path) -> None:
    """Run the real script on a project whose make does as it is told."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    script.chmod(0o755)
    for failing, expected in ((), 0), (("check",), 1), (("test",), 1):
        targets = [
            f"{name}:\n\t@echo ran {name}; {'false' if name in failing else 'true'}\n"
            for name in ("check", "test")
        ]
        (tmp_path / "Makefile").write_text("".join(targets), encoding="utf-8")
        result = subprocess.run(
            [script], capture_output=True, text=True, check=False, cwd="/"
        )
        assert result.returncode == expected
        assert "ran check" in result.stdout
        assert "ran test" in result.stdout
        for name in failing:
            assert f"make {name}: FAILED" in result.stdout


@pytest.mark.parametrize("script", [".ci/run", "scripts/system-packages.sh"])
def test_scripts_are_valid_and_can_be_run(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)  # noqa: S607


def test_the_setup_goes_on_where_nothing_can_be_installed(tmp_path: Path) -> None:
    """Without apt-get and without any of the programs."""
    for name in ("bash", "basename"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    result = subprocess.run(
        ["/usr/bin/bash", ROOT / "scripts" / "system-packages.sh"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "PYTHON": "python3.99"},
    )
    assert result.returncode == 0, result.stderr
    assert "the tests with a Redis broker will be skipped" in result.stdout
    assert "no python3.99" in result.stdout


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    wanted = project["project"]["dependencies"] + [
        requirement
        for group in project["project"]["optional-dependencies"].values()
        for requirement in group
    ]
    names = {
        requirement.split(">")[0].split("=")[0].split("[")[0].lower()
        for requirement in wanted
    } - {"tcaq"}
    assert names <= pins
