"""Settings of every process, read from the environment with the prefix TCAQ_.

The embedded default (SQLite, a filesystem broker, a local artifact folder under one
data directory) is nothing but default values; production differs in three URLs.
"""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Positive = Annotated[int, Field(ge=1)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Frozen settings; the composition roots build one, everything else is given it."""

    model_config = SettingsConfigDict(
        env_prefix="TCAQ_",
        # Compose files pass unset variables on as empty strings.
        env_ignore_empty=True,
        frozen=True,
        # A refused value may be a URL with a password in it.
        hide_input_in_errors=True,
        validate_default=True,
    )

    data_directory: Path = Path("tcaq-data")
    """Everything the embedded default writes; also caches and scratch space."""
    database_url: SecretStr | None = None
    """SQLAlchemy URL; default: the SQLite file ``tcaq.db`` in the data directory."""
    broker_url: SecretStr | None = None
    """Celery broker URL; default: message files under the data directory."""
    artifacts_url: str | None = None
    """An absolute folder or a file:// URL; default: ``artifacts`` in the data
    directory."""
    models_directory: Path = Path(__file__).resolve().parents[1] / "models"
    """The only folder whose models can be named without an owner."""
    evaluation_directory: Path = Path(__file__).resolve().parents[1] / "evaluation"
    """Feature networks and reference statistics, by name."""
    inception_weights: str | None = None
    """A path or an https:// URL of the FID network's weights; without them FID cannot
    be computed."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    max_body_bytes: Positive = 2**20
    lease_seconds: PositiveSeconds = 60
    """A running job whose heartbeat is older than this has lost its worker."""
    heartbeat_seconds: PositiveSeconds = 10
    reap_seconds: PositiveSeconds = 30
    max_attempts: Positive = 3
    requeue_after_seconds: PositiveSeconds = 60
    """A queued job that nobody claimed for this long is rung again."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    sample_cache_size: Positive = 4
    """Loaded pipelines that the sampling worker keeps."""
    sample_wait_seconds: Annotated[float, Field(ge=0)] = 120
    max_images: Positive = 256
    benchmark_seconds: Annotated[float, Field(ge=0)] = 10
    """For timing a finished checkpoint against its model; 0: it is not timed."""
    journals_directory: Path | None = None
    """Where running jobs save what they have finished; default: ``journals`` in the
    data directory."""
    journal_days: Annotated[float, Field(gt=0)] = 7
    """What a job left for another attempt is deleted after so many days."""
    shard_days: Annotated[float, Field(gt=0)] = 7
    """Features of an evaluation's images are deleted when no job used them for so
    many days."""
    memory_budget_bytes: Positive = 8 * 2**30
    """Memory for what reconstruction captures; more of it goes to scratch files."""
    allow_hub: bool = True
    """Whether ``owner/name@commit`` may be fetched from the hub."""

    @field_validator(
        "data_directory",
        "models_directory",
        "evaluation_directory",
        "journals_directory",
    )
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser().absolute()

    @field_validator("inception_weights")
    @classmethod
    def _is_path_or_https(cls, weights: str | None) -> str | None:
        if weights is None or "://" not in weights:
            return weights and str(Path(weights).expanduser().absolute())
        parts = urlsplit(weights)
        if parts.scheme == "https" and parts.hostname:
            return weights
        raise ValueError("must be a path or an https:// URL")

    @field_validator("artifacts_url")
    @classmethod
    def _is_local(cls, url: str | None) -> str | None:
        if url is None or Path(url).is_absolute():
            return url
        parts = urlsplit(url)
        if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
            return url
        raise ValueError("must be an absolute folder or a file:///absolute/folder URL")

    @model_validator(mode="after")
    def _heart_beats_within_lease(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                "lease_seconds must be at least twice heartbeat_seconds: one late "
                "heartbeat would cost the job its worker"
            )
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL with its driver, password included: never log it."""
        if self.database_url is None:
            return f"sqlite:///{self.data_directory / 'tcaq.db'}"
        url = self.database_url.get_secret_value()
        for scheme in ("postgresql://", "postgres://"):
            if url.startswith(scheme):
                return f"postgresql+psycopg://{url.removeprefix(scheme)}"
        return url

    @property
    def broker(self) -> str:
        """The Celery broker URL, password included: never log it."""
        if self.broker_url is None:
            return "filesystem://"
        return self.broker_url.get_secret_value()

    @property
    def journals(self) -> Path:
        """Where running jobs save what they have finished."""
        return self.journals_directory or self.data_directory / "journals"

    @property
    def broker_directory(self) -> Path:
        """Where the filesystem broker keeps its messages."""
        return self.data_directory / "broker"

    @property
    def artifacts_directory(self) -> Path:
        """The folder of the local artifact store."""
        if self.artifacts_url is None:
            return self.data_directory / "artifacts"
        if self.artifacts_url.startswith("file:"):
            return Path(unquote(urlsplit(self.artifacts_url).path))
        return Path(self.artifacts_url)
