"""``tcaq reference``: make the statistics that generated images are compared with."""

import json
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from tcaq_core.command_line import (
    CACHE,
    EVALUATION,
    DataDirectory,
    Directory,
    InceptionWeights,
    Places,
    device_of,
    refuse,
)
from tcaq_core.errors import TCAQError
from tcaq_core.evaluation.extractors import load_extractor
from tcaq_core.evaluation.images import open_images
from tcaq_core.evaluation.record import ExtractorDtype, ReferenceUsed
from tcaq_core.evaluation.reference import BATCH_SIZE, make_reference
from tcaq_core.evaluation.reference_file import FOLDER, SUFFIX

MEGABYTE: Final = 1e6
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def reference(
    images: Annotated[
        Path, typer.Argument(help="A folder of PNGs, an .npz or a folder of them.")
    ],
    *,
    extractor: Annotated[
        str, typer.Option(help="The feature network: its name, or a file or folder.")
    ],
    name: Annotated[
        str | None, typer.Option(help="To ask for it by; default: as the images.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File; default: references/NAME.safetensors in --directory."),
    ] = None,
    dtype: Annotated[ExtractorDtype, typer.Option(help="Of the network.")] = "float32",
    features: Annotated[
        bool,
        typer.Option(help="Keep each image's: KID, precision and recall need them."),
    ] = True,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images that are in memory at once.")
    ] = BATCH_SIZE,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    jpeg: Annotated[
        bool,
        typer.Option(
            "--jpeg", help="Take JPEGs, too: for data sets published as such."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write over an older reference.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.")
    ] = False,
    directory: Directory = EVALUATION,
    inception_weights: InceptionWeights = None,
    data_directory: DataDirectory = Path("tcaq-data"),
) -> None:
    """Make reference statistics of images; progress goes to stderr."""
    called = _called(name, out, images)
    target = out or directory / FOLDER / f"{called}{SUFFIX}"
    _refuse_target(target, is_forced=force)
    on = device_of(device)
    places = Places(directory, inception_weights, data_directory / CACHE)
    progress = _Rate()
    try:
        found = open_images(images, allow_jpeg=jpeg)
        path = places.extractor(extractor)
        network = load_extractor(path, device=on, dtype=dtype)
        used = make_reference(
            found,
            network,
            target,
            name=called,
            keep_features=features,
            batch_size=batch_size,
            progress=progress,
        )
    except TCAQError as error:
        refuse(error)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error
    _say(used, target, seconds=progress.seconds, as_json=as_json)


class _Rate:
    """One line on stderr for every twentieth of the images."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._last = 0

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    def __call__(self, done: int, total: int) -> None:
        now = 20 * done // total
        if now != self._last:
            self._last = now
            sys.stderr.write(
                f"features {done}/{total}, {done / self.seconds:.0f} images/s\n"
            )
            sys.stderr.flush()


def _called(name: str | None, out: Path | None, images: Path) -> str:
    called = name or (images.resolve().stem if out is None else out.stem)
    if _NAME.fullmatch(called) is None:
        raise typer.BadParameter(
            f"{called!r} has other characters than letters, digits, '.', '_' and '-', "
            "or more than 64.",
            param_hint="--name",
        )
    return called


def _refuse_target(target: Path, *, is_forced: bool) -> None:
    if target.suffix != SUFFIX:
        raise typer.BadParameter(f"It must end in {SUFFIX}.", param_hint="--out")
    if target.exists() and not is_forced:
        raise typer.BadParameter(
            f"{target} exists already; --force writes over it.", param_hint="--out"
        )


def _say(used: ReferenceUsed, path: Path, *, seconds: float, as_json: bool) -> None:
    n, network = used.info.n, used.info.extractor
    rate = n / seconds
    if as_json:
        line = {
            "path": str(path),
            "sha256": used.stats_sha256,
            "n": n,
            "extractor": network.name,
            "seconds": round(seconds, 3),
            "images_per_second": round(rate, 2),
        }
        typer.echo(json.dumps(line))
        return
    size = path.stat().st_size / MEGABYTE
    typer.echo(
        f"{path}: {n} images in {network.name}'s features, {size:.2f} MB, "
        f"{seconds:.1f} s ({rate:.0f} images/s)\nsha256 {used.stats_sha256}"
    )
