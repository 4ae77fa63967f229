"""What the local commands share: options that are checked, progress, refusals."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NoReturn

import torch
import typer

from tcaq_core.errors import TCAQError
from tcaq_core.evaluation.extractor_folder import fetch_extractor
from tcaq_core.evaluation.reference_file import find_reference

EXIT_REFUSED: Final = 1
EVALUATION: Final = Path(__file__).resolve().parents[1] / "evaluation"
"""The networks and statistics that are shipped with the project."""
CACHE: Final = Path("cache", "extractors")
"""Below the data directory; the worker's, too."""
WEIGHT_SUFFIXES: Final = (".safetensors", ".pth")

Directory = Annotated[
    Path,
    typer.Option(
        envvar="TCAQ_EVALUATION_DIRECTORY", help="Holds extractors/ and references/."
    ),
]
InceptionWeights = Annotated[
    str | None,
    typer.Option(envvar="TCAQ_INCEPTION_WEIGHTS", help="Path or https URL, for FID."),
]
DataDirectory = Annotated[
    Path,
    typer.Option(
        envvar="TCAQ_DATA_DIRECTORY", help="Where downloaded weights are kept."
    ),
]


@dataclass(frozen=True)
class Places:
    """Where networks and statistics are looked for."""

    directory: Path
    inception_weights: str | None
    cache: Path

    def extractor(self, name: str) -> Path:
        """Return where a network lies; what looks like a path is one.

        Raises:
            ExtractorUnavailable: none of that name, or its weights are not here.
        """
        if _is_path(name):
            return Path(name)
        return fetch_extractor(
            name,
            directory=self.directory / "extractors",
            inception_weights=self.inception_weights,
            cache=self.cache,
        )

    def reference(self, name: str) -> Path:
        """Return where statistics lie; what looks like a path is one.

        Raises:
            ReferenceUnusable: none of that name.
        """
        if _is_path(name):
            return Path(name)
        return find_reference(name, directory=self.directory)


class Lines:
    """Progress: a line on stderr for each new stage and every tenth of it."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say it if it is news."""
        now = (stage, 10 * done // max(total, 1))
        if now != self._last:
            self._last = now
            sys.stderr.write(f"{stage} {done}/{total}\n")
            sys.stderr.flush()


def device_of(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        typer.BadParameter: there is none on this machine.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        detail = str(error).splitlines()[0]
        raise typer.BadParameter(detail, param_hint="--device") from error
    return device


def refuse(error: TCAQError) -> NoReturn:
    """Say why on stderr, and end with `EXIT_REFUSED`."""
    typer.echo(f"error: {error.detail} ({error.code})\n  hint: {error.hint}", err=True)
    raise typer.Exit(EXIT_REFUSED)


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith(WEIGHT_SUFFIXES)
