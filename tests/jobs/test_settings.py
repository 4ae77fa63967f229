from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from jobs.settings import Settings


def test_the_embedded_default_lives_under_one_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/tcaq.db"
    assert settings.broker == "filesystem://"
    assert settings.broker_directory.parent == tmp_path
    assert settings.artifacts_directory.parent == tmp_path


def test_a_relative_data_directory_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().data_directory == tmp_path / "tcaq-data"


def test_settings_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TCAQ_PORT", "9000")
    monkeypatch.setenv("TCAQ_BROKER_URL", "redis://127.0.0.1/0")
    assert (Settings().port, Settings().broker) == (9000, "redis://127.0.0.1/0")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCAQ_DATABASE_URL", "")
    assert Settings().database.startswith("sqlite:")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_reached_through_psycopg(scheme: str) -> None:
    settings = Settings(database_url=SecretStr(f"{scheme}://me:word@db:5432/tcaq"))
    assert settings.database == "postgresql+psycopg://me:word@db:5432/tcaq"


def test_passwords_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCAQ_DATABASE_URL", "postgresql://me:hunter2@db/tcaq")
    monkeypatch.setenv("TCAQ_BROKER_URL", "redis://:hunter2@redis/0")
    settings = Settings()
    shown = f"{settings!r} {settings} {settings.model_dump_json()}"
    assert "hunter2" in settings.database
    assert "hunter2" in settings.broker
    assert "hunter2" not in shown


def test_a_refused_value_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCAQ_ARTIFACTS_URL", "s3://key:hunter2@bucket")
    with pytest.raises(ValidationError, match="file:///absolute") as caught:
        Settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["/srv/my files", "file:///srv/my%20files"])
def test_artifacts_may_live_in_any_folder(url: str) -> None:
    assert Settings(artifacts_url=url).artifacts_directory == Path("/srv/my files")


def test_a_lease_must_outlast_a_late_heartbeat() -> None:
    with pytest.raises(ValidationError, match="twice heartbeat_seconds"):
        Settings(lease_seconds=15, heartbeat_seconds=10)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_the_models_directory_is_the_repositorys() -> None:
    assert Settings().models_directory == Path(__file__).resolve().parents[2] / "models"


def test_the_evaluation_directory_stands_beside_the_models() -> None:
    settings = Settings()
    assert settings.evaluation_directory.parent == settings.models_directory.parent
    assert Settings(evaluation_directory=Path("here")).evaluation_directory == (
        Path.cwd() / "here"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("https://host/weights.pth", "https://host/weights.pth"),
        ("/srv/weights.pth", "/srv/weights.pth"),
        ("weights.pth", str(Path.cwd() / "weights.pth")),
        ("~/weights.pth", str(Path.home() / "weights.pth")),
    ],
)
def test_inception_weights_are_a_path_or_an_https_url(
    given: str | None, kept: str | None
) -> None:
    assert Settings(inception_weights=given).inception_weights == kept


@pytest.mark.parametrize(
    "url", ["http://host/weights.pth", "file:///weights", "s3://b/w", "https:///w"]
)
def test_inception_weights_come_from_nowhere_else(url: str) -> None:
    with pytest.raises(ValidationError, match="a path or an https:// URL"):
        Settings(inception_weights=url)


def test_shards_are_kept_for_some_time() -> None:
    with pytest.raises(ValidationError, match="shard_days"):
        Settings(shard_days=0)
