"""One real job, end to end: `make demo`.

Starts the embedded stack, has a diffusion model quantized and scored over HTTP,
downloads the checkpoint, and draws images from it beside the full-precision ones. What
it leaves in build/demo: checkpoint/, samples.png, report.json, scores.json, tcaq.log.
"""

import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from rich.console import Console

from examples.stack import Stack, StackFailed
from tcaq_client import Client, ClientError, Job, Sample
from tcaq_client.score_screen import score_text
from tcaq_client.screen import error_text, progress_of, table

FOLDER: Final = Path(__file__).resolve().parents[1] / "build" / "demo"
REQUEST: Final[dict[str, Any]] = {
    "model": "ddpm-cifar10-small",
    "weight_bits": 4,
    "activation_bits": 8,
    "recipe": "standard",
}
# A first look that takes a minute: the protocol itself draws 2,000 images in 50 steps.
EVALUATION: Final = {
    "protocol": "quick",
    "num_images": 128,
    "num_steps": 20,
    "shard_images": 32,
    "batch_size": 32,
}
NUM_IMAGES: Final = 8


def main() -> int:
    """Run the demo; return the exit code."""
    # Without this, a kill would leave the stack running.
    signal.signal(signal.SIGTERM, _terminated)
    screen = Console(highlight=False)
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    FOLDER.mkdir(parents=True)
    stack = Stack(data=FOLDER / "data", log=FOLDER / "tcaq.log")
    try:
        report = run(stack, screen)
    except KeyboardInterrupt:
        screen.print("make demo was interrupted; the stack is stopped.")
        return 130
    except (ClientError, StackFailed) as error:
        text = error_text(error) if isinstance(error, ClientError) else str(error)
        notes = getattr(error, "__notes__", ())
        screen.print("make demo failed:", text, *notes, sep="\n", markup=False)
        screen.print(f"tcaq up said ({FOLDER / 'tcaq.log'} has the rest):")
        screen.print(stack.last_words(), markup=False)
        return 1
    show(report, screen)
    return 0


def run(stack: Stack, screen: Console) -> dict[str, Any]:
    """Run every step and return the report, after the stack has stopped."""
    started = time.monotonic()
    screen.print("Starting server and workers ...")
    with stack, Client(stack.url) as client:
        job = client.submit(**REQUEST, evaluation=EVALUATION)
        screen.print(f"POST {stack.url}/jobs -> {job.id}")
        with progress_of(job.id, screen) as shown:
            job = client.wait(job.id, shown)
        client.download(job.id, FOLDER / "checkpoint")
        screen.print(f"Drawing {NUM_IMAGES} images, and the same in full precision ...")
        sampling = time.monotonic()
        sample = client.sample(job.id, n=NUM_IMAGES, seed=0, compare_to="baseline")
        sample_seconds = time.monotonic() - sampling
        (FOLDER / "samples.png").write_bytes(client.image(sample.grid))
    report = report_of(
        job,
        sample,
        sample_seconds=sample_seconds,
        total_seconds=time.monotonic() - started,
    )
    _write("report.json", report)
    # With everything that decides each value.
    _write("scores.json", [dict(score.raw) for score in job.scores])
    return report


def _write(name: str, document: object) -> None:
    text = json.dumps(document, indent=2)
    (FOLDER / name).write_text(f"{text}\n", encoding="utf-8")


def report_of(
    job: Job, sample: Sample, *, sample_seconds: float, total_seconds: float
) -> dict[str, Any]:
    """Return the report of a finished job and a sample with its baseline.

    `seconds` holds the job's stages by name, then the sampling (both checkpoints) and
    everything together, from the start of the stack to its end.
    """
    result = job.result or {}
    seconds = {step.name: step.seconds or 0.0 for step in job.steps}
    seconds |= {"sample": sample_seconds, "total": total_seconds}
    return {
        "job_id": job.id,
        "status": job.status,
        **REQUEST,
        "checkpoint_bytes": _size(FOLDER / "checkpoint"),
        "denoiser_bytes": result["checkpoint"]["denoiser_bytes"],
        "float32_bytes": result["float32_bytes"],
        "compression_ratio": result["compression_ratio"],
        "psnr_db": sample.psnr_db,
        "scores": {score.label: score_text(score) for score in job.scores},
        "num_images": len(sample.images),
        "execution": sample.execution,
        "kernels": sample.kernels,
        "speedup": dict(job.speedup),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def show(report: dict[str, Any], screen: Console) -> None:
    """Print the report as a table, and where everything is."""
    megabyte = 1e6
    rows = [
        ("job", f"{report['job_id']} {report['status']}"),
        ("model, recipe", f"{report['model']}, {report['recipe']}"),
        ("bits", f"W{report['weight_bits']}A{report['activation_bits']}"),
        ("checkpoint", f"{report['checkpoint_bytes'] / megabyte:.2f} MB"),
        ("float32 weights", f"{report['float32_bytes'] / megabyte:.2f} MB"),
        ("compression", f"{report['compression_ratio']:.2f} x"),
        ("PSNR of images", f"{report['psnr_db']:.2f} dB against full precision"),
        *(
            (label, text.removeprefix(label).strip())
            for label, text in report["scores"].items()
        ),
        ("execution", f"{report['execution']} ({report['kernels']})"),
        *(
            (f"speed {name.replace('_', ' ')}", f"{factor:.2f} x")
            for name, factor in report["speedup"].items()
        ),
        *((f"{k} time", f"{v:.1f} s") for k, v in report["seconds"].items()),
    ]
    screen.print()
    screen.print(table(("what", "value"), rows))
    screen.print(
        f"\nIn {FOLDER}: checkpoint/ samples.png report.json scores.json tcaq.log"
    )


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
