"""Correction of the predicted noise, step by step: PTQD, TAC-Diffusion, least squares.

All of them replace the prediction by eps <- (eps_hat - b_c) * g_c, with a row of
tables for each sampler step. eps is what full precision answers on the same x_t.

``ptqd`` (NeurIPS 2023, 2305.10657): eps_hat - eps = k eps + rest; k by regression
over all elements, k <- max(k, 0); b_c = mean(eps_hat - eps), g = 1 / (1 + k), and
std(rest) / (1 + k) is left, which stochastic DDIM injects less of. Statistics come
from full-precision trajectories.

``tac`` (ECCV 2024, 2407.03917): b_c = 0 and g_c = K_c, the minimum of
(1 - l1) sum (K e_hat - e)^2 + l1 N sum ((K e_hat - e) / e)^2 + l2 N (K - 1)^2, a
sample's sums over height and width, N = C H W, averaged over samples. Its relative
term would be ruled by the few |e| that happen to be almost zero and pull every K to
zero, so |e| counts as its channel's root mean square where it is smaller.

``affine``: g and b_c with the smallest squared error.

``tac`` and ``affine`` are recurrent: all trajectories advance together, and the next
step's inputs come from predictions that are corrected already.

Invariant: at no step does the squared error of the predicted noise grow, on the
inputs that the correction was fitted on; a step where it would stays uncorrected.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from jaxtyping import Float
from torch import Tensor

from tcaq_core.calibration import BATCH_SIZE
from tcaq_core.correction import OutputCorrection, corrected
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.difference import Lanes
from tcaq_core.diffusion import Pipeline, sample
from tcaq_core.errors import CalibrationFailed, ModelUnsupported
from tcaq_core.noise_model import Row, fit_affine, fit_ptqd, fit_tac, residual_std
from tcaq_core.recipe import CalibrationSpec, Correct
from tcaq_core.timesteps import SamplerSteps


@dataclass(frozen=True)
class StepReport:
    """What the correction did at one step, on the inputs that it was fitted on."""

    t: int
    mean_gain: float
    error_before: float
    """Squared error of the predicted noise, over the square of the noise."""
    error_after: float


def apply(
    pipeline: Pipeline,
    denoiser: QuantizedDenoiser,
    spec: CalibrationSpec,
    config: Correct,
    *,
    seed: int,
    progress: Callable[[int, int], None],
) -> list[dict[str, object]]:
    """Fit and attach the correction; return what it does at each step.

    The noise of trajectory i is drawn from seed + i.

    Raises:
        CalibrationFailed: a prediction has NaN or infinite values.
        ModelUnsupported: ``ptqd`` for a model that does not predict the noise.
    """
    _check_prediction(pipeline, config)
    rows: dict[int, Row] = {}
    report: list[StepReport] = []
    lanes = Lanes(denoiser.unet)

    def answer(x_t: Tensor, t: int, run: Run) -> Tensor:
        eps_hat = _quantized(x_t, lanes, run)
        with denoiser.full_precision():
            eps = torch.cat([run(chunk) for chunk in x_t.split(BATCH_SIZE)])
        rows[t], found = fit_step(eps_hat, eps, config, t=t)
        report.append(found)
        # PTQD takes its statistics where full precision goes.
        return eps if config.rule == "ptqd" else _corrected(eps_hat, rows[t])

    with torch.no_grad(), _answering(denoiser, answer):
        sample(
            pipeline,
            seeds=range(seed, seed + config.num_samples),
            num_steps=spec.num_steps,
            eta=spec.eta,
            batch_size=config.num_samples,
            progress=progress,
        )
    attach(denoiser, rows)
    return [asdict(step) for step in report]


def attach(denoiser: QuantizedDenoiser, rows: dict[int, Row]) -> None:
    """Give a denoiser the correction whose rows these are, by timestep."""
    visited = SamplerSteps(tuple(sorted(rows, reverse=True)))
    known = denoiser.cursor.steps
    if known is None:
        denoiser.cursor.steps = known = visited
    # Tables of earlier passes decide which steps there are; ours may be others.
    table = [
        rows[visited.timesteps[int(visited.index(torch.tensor(t)))]]
        for t in known.timesteps
    ]
    denoiser.correct_with(
        OutputCorrection(
            torch.stack([row.gain for row in table]),
            torch.stack([row.bias for row in table]),
            torch.tensor([row.residual_std for row in table]),
            cursor=denoiser.cursor,
        )
    )


def fit_step(
    eps_hat: Float[Tensor, "N C H W"],
    eps: Float[Tensor, "N C H W"],
    config: Correct,
    *,
    t: int,
) -> tuple[Row, StepReport]:
    """Return the correction of one step, or none where it would not help.

    Raises:
        CalibrationFailed: a prediction has NaN or infinite values.
    """
    for name, x in (("quantized", eps_hat), ("full-precision", eps)):
        if not bool(torch.isfinite(x).all()):
            raise CalibrationFailed(
                f"The {name} prediction has NaN or infinite values at t = {t}.",
                hint="Check the model in float32, and the ranges that were fitted.",
            )
    row = _fit(eps_hat.double(), eps.double(), config)
    before = _squared_error(eps_hat, eps)
    after = _squared_error(_corrected(eps_hat, row), eps)
    if not after <= before:
        one = torch.ones_like(row.gain)
        left = residual_std(eps_hat.double(), eps.double(), gain=1.0)
        row = Row(one, 0 * one, left if config.rule == "ptqd" else 0.0)
        after = before
    noise = max(float(eps.double().square().sum()), torch.finfo(torch.float64).tiny)
    return row, StepReport(t, float(row.gain.mean()), before / noise, after / noise)


def _fit(eps_hat: Tensor, eps: Tensor, config: Correct) -> Row:
    match config.rule:
        case "ptqd":
            return fit_ptqd(eps_hat, eps)
        case "tac":
            return fit_tac(
                eps_hat, eps, share=config.relative_share, ridge=config.ridge
            )
        case "affine":
            return fit_affine(eps_hat, eps)


def _corrected(eps_hat: Tensor, row: Row) -> Tensor:
    return corrected(eps_hat, row.gain, row.bias)


def _squared_error(eps_hat: Tensor, eps: Tensor) -> float:
    return float((eps_hat - eps).square().double().sum())


def _quantized(x_t: Tensor, lanes: Lanes, run: "Run") -> Tensor:
    chunks = []
    for index, chunk in enumerate(x_t.split(BATCH_SIZE)):
        with lanes.lane(index):
            chunks.append(run(chunk))
    return torch.cat(chunks)


Run = Callable[[Tensor], Tensor]
"""Evaluates the denoiser at the step's timestep, in whatever precision is on."""


@contextmanager
def _answering(
    denoiser: QuantizedDenoiser, answer: Callable[[Tensor, int, Run], Tensor]
) -> Iterator[None]:
    """Let `answer` say what the sampler receives for its x_t at each timestep."""
    forward = denoiser.unet.forward

    def instead(sample: Tensor, timestep: Tensor | float) -> UNet2DOutput:
        def run(x_t: Tensor) -> Tensor:
            eps: Tensor = forward(x_t, timestep, return_dict=False)[0]
            return eps

        return UNet2DOutput(sample=answer(sample, int(timestep), run))

    denoiser.unet.forward = instead
    try:
        yield
    finally:
        denoiser.unet.forward = forward


def _check_prediction(pipeline: Pipeline, config: Correct) -> None:
    kind = pipeline.inner.scheduler.config.prediction_type
    if config.rule == "ptqd" and kind != "epsilon":
        raise ModelUnsupported(
            f"The model predicts {kind}; PTQD's variance is that of predicted noise.",
            hint='Use {"kind": "correct", "rule": "affine"}.',
        )
