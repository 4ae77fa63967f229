"""Rows of feature extraction and of the whole score: engines in turn, medians, ratios.

A whole score is composed of two measurements of one run: n images at the measured
seconds an image, and each package's Frechet step on n features of 2,048. Extraction is
linear in n (batches), so nothing is gained by waiting for all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final

from torch import Tensor

from benchmarks.evaluation_engine import Engine, EngineUnavailable
from benchmarks.evaluation_engines import (
    ENGINES,
    PYTORCH_FID,
    SCORE,
    TORCH_FIDELITY,
    Step,
    build,
    steps,
)
from benchmarks.evaluation_peak import Peak, measure_peak
from benchmarks.evaluation_workload import random_features, random_images
from tcaq_core.evaluation.paired import relative_mse

BASELINES: Final = (TORCH_FIDELITY, PYTORCH_FID)
SEED: Final = 0
Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """How much every engine does."""

    folder: Path
    """With the weights."""
    num_images: int
    rounds: int
    threads: int
    score_images: int
    score_rounds: int
    width: int
    """Of the features that are scored."""


@dataclass
class Runner:
    """An engine, its features, and the seconds of each round."""

    engine: Engine
    features: Tensor
    seconds: list[float] = field(default_factory=list)


@dataclass
class Scorer:
    """A Frechet step, what it found, and the seconds of each round."""

    step: Step
    value: float = 0.0
    seconds: list[float] = field(default_factory=list)


def measure_features(work: Work, missing: dict[str, str]) -> list[Runner]:
    """Time every engine once a round on the same images, after an untimed round."""
    images = random_images(work.num_images, seed=SEED)
    runners = []
    for name in ENGINES:
        try:
            engine = build(name, work.folder)
        except EngineUnavailable as error:
            missing[name] = str(error)
            continue
        runners.append(Runner(engine, engine.extract(images)))
    for _ in range(work.rounds):
        for runner in runners:
            began = perf_counter()
            runner.engine.extract(images)
            runner.seconds.append(perf_counter() - began)
    return runners


def measure_scores(
    work: Work, engines: Sequence[str], missing: dict[str, str]
) -> list[Scorer]:
    """Time the Frechet step of each of the engines once a round, on the same features.

    The reference, another sample of the same distribution, is prepared before.
    """
    features, reference = (
        random_features(work.score_images, width=work.width, seed=seed)
        for seed in (SEED, SEED + 1)
    )
    scorers = []
    for name in engines:
        try:
            scorers += [Scorer(step) for step in steps(name, reference)]
        except EngineUnavailable as error:
            missing[f"{name} {SCORE}"] = str(error)
    for _ in range(work.score_rounds):
        for scorer in scorers:
            began = perf_counter()
            scorer.value = scorer.step.compute(features)
            scorer.seconds.append(perf_counter() - began)
    return scorers


def measure_extract_peaks(runners: Sequence[Runner], work: Work) -> dict[str, Peak]:
    """Return what each engine takes, in a fresh process, by its name."""
    options = (work.folder, "--images", str(work.num_images))
    return {
        name: measure_peak("extract", name, *options, threads=work.threads)
        for name in (runner.engine.name for runner in runners)
    }


def measure_step_peaks(scorers: Sequence[Scorer], work: Work) -> dict[str, Peak]:
    """Return what each Frechet step takes, in a fresh process, by its label."""
    options = ("--images", str(work.score_images), "--width", str(work.width))
    return {
        label: measure_peak("frechet", label, *options, threads=work.threads)
        for label in (scorer.step.label for scorer in scorers)
    }


def feature_rows(
    runners: Sequence[Runner], peaks: Mapping[str, Peak], work: Work
) -> list[Row]:
    """Return a row an engine."""
    baselines = [runner for runner in runners if runner.engine.name in BASELINES]
    rows = []
    for runner in runners:
        name, seconds = runner.engine.name, median(runner.seconds)
        rows.append(
            {
                "engine": name,
                "images_per_second": work.num_images / seconds,
                **_memory(peaks[name]),
                "images": work.num_images,
                "seconds": seconds,
                "speedup": {
                    other.engine.name: _ratio(other.seconds, runner.seconds)
                    for other in baselines
                },
                # Of the features, against those of the first engine.
                "relative_error": _error(runner.features, runners[0].features),
                "threads": work.threads,
                "note": runner.engine.note,
            }
        )
    return rows


def score_rows(
    scorers: Sequence[Scorer],
    peaks: Mapping[str, Peak],
    features: Mapping[str, Mapping[str, Any]],
    work: Work,
) -> list[Row]:
    """Return a row a Frechet step: the whole score of `work.score_images` images.

    `features` are the rows of `feature_rows`, by engine.
    """
    n = work.score_images
    totals = {
        scorer.step.label: n / features[scorer.step.engine]["images_per_second"]
        + median(scorer.seconds)
        for scorer in scorers
    }
    baselines = {
        name: totals[label]
        for name in BASELINES
        if (label := f"{name} {SCORE}") in totals
    }
    rows = []
    for scorer in scorers:
        label, own = scorer.step.label, features[scorer.step.engine]
        peak = peaks[label]
        rows.append(
            {
                "engine": label,
                "images_per_second": n / totals[label],
                **_memory(peak),
                # Features first, then the step: the larger of both.
                "peak_bytes": max(peak.peak_bytes, own["peak_bytes"]),
                "images": n,
                "seconds": totals[label],
                "frechet_seconds": median(scorer.seconds),
                "speedup": {
                    name: total / totals[label] for name, total in baselines.items()
                },
                "value": scorer.value,
                "threads": work.threads,
                "note": f"composed: {n} images at {own['engine']}'s rate, and its "
                f"Frechet step on {n} features of {work.width}",
            }
        )
    return rows


def _error(found: Tensor, exact: Tensor) -> float:
    return math.sqrt(relative_mse(found, exact))


def _memory(peak: Peak) -> dict[str, int]:
    return {
        "peak_bytes": peak.peak_bytes,
        "load_peak_bytes": peak.load_peak_bytes,
        "floor_bytes": peak.floor_bytes,
    }


def _ratio(other: list[float], own: list[float]) -> tuple[float, float, float]:
    """Return how many times as long another takes: of medians, and quartiles."""
    within = [a / b for a, b in zip(other, own, strict=True)]
    low, high = within[0], within[0]
    if len(within) > 1:
        low, _, high = quantiles(within, n=4, method="inclusive")
    return median(other) / median(own), low, high
