from typing import Any

import pytest
import torch
from torch import Tensor

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import load_pipeline
from tcaq_core.quantization import quantize
from tcaq_core.recipe import DAQ, TCR, FitRanges, Method, resolve
from tcaq_core.runtime.cuda_graph import GraphedUNet, NotCapturable, replay_forwards
from tcaq_core.runtime.integer import Execution, compile_integer
from tests.tcaq_core.conftest import SPEC

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
INTEGER = Execution("integer", "triton-int8", 1, {})


def test_a_denoiser_on_a_processor_is_refused(denoiser: QuantizedDenoiser) -> None:
    with pytest.raises(NotCapturable, match="need a CUDA device, not cpu"):
        replay_forwards(denoiser, INTEGER)


class Doubling:
    """A forward that doubles its sample and adds the timestep; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        sample: Tensor,
        timestep: Any,  # noqa: ANN401  (diffusers' signature)
        class_labels: Tensor | None = None,
        return_dict: bool = True,  # noqa: ARG002, FBT001, FBT002
    ) -> tuple[Tensor]:
        self.calls += 1
        t = torch.as_tensor(timestep, device=sample.device).reshape(-1, 1)
        return (sample * 2 + t + (0 if class_labels is None else class_labels),)


def test_what_no_graph_can_hold_is_executed_as_it_was() -> None:
    forward = Doubling()
    graphed = GraphedUNet(forward)
    x = torch.ones(2, 3)
    labels = torch.ones(2, 3)
    with torch.no_grad():
        several = graphed(x, torch.tensor([1, 2]), return_dict=False)[0]
        labelled = graphed(x, 1, labels, False)[0]
    with_gradients = graphed(x, 1, return_dict=False)[0]
    assert several.tolist() == [[3.0] * 3, [4.0] * 3]
    assert labelled.tolist() == [[4.0] * 3] * 2
    assert with_gradients.tolist() == [[3.0] * 3] * 2
    assert forward.calls == 3
    assert graphed.captured == {}


def test_a_sample_on_a_processor_is_not_captured() -> None:
    graphed = GraphedUNet(Doubling())
    with torch.no_grad(), pytest.raises(NotCapturable, match="a sample on cpu"):
        graphed(torch.ones(2, 3), 1)


@pytest.mark.gpu
@NEEDS_GPU
def test_a_replay_reads_the_new_sample_and_the_new_timestep() -> None:
    forward = Doubling()
    graphed = GraphedUNet(forward, max_graphs=2)
    with torch.no_grad():
        results = [
            graphed(torch.full((n, 3), value, device="cuda"), t, return_dict=False)[0]
            for n, value, t in ((2, 1.0, 5), (2, 3.0, 7), (4, 1.0, 0), (2, 0.0, 1))
        ]
        captures = forward.calls
        beyond = graphed(torch.ones(8, 3, device="cuda"), 3, return_dict=False)[0]
    assert [float(result[0, 0]) for result in results] == [7.0, 13.0, 2.0, 1.0]
    assert len(graphed.captured) == 2
    assert float(beyond[0, 0]) == 5.0
    assert forward.calls == captures + 1


@pytest.mark.gpu
@NEEDS_GPU
def test_a_captured_denoiser_predicts_what_it_predicted_at_every_timestep(
    tiny_folder: Any,  # noqa: ANN401
) -> None:
    device = torch.device("cuda")
    pipeline = load_pipeline(tiny_folder, device=device)
    method = Method(passes=(TCR(), FitRanges(), DAQ()))
    recipe = resolve(method, weight_bits=4, activation_bits=8, calibration=SPEC)
    denoiser = quantize(pipeline, recipe, progress=lambda *_: None).denoiser
    execution = compile_integer(denoiser)
    assert execution.kernels == "triton-int8"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 8, generator=generator).to(device)
    steps = [torch.full((2,), t, device=device) for t in (999, 500, 250, 1)]
    with torch.no_grad():
        plain = [denoiser(x * (i + 1), t) for i, t in enumerate(steps)]
        graphed = replay_forwards(denoiser, execution)
        again = [denoiser(x * (i + 1), t) for i, t in enumerate(steps)]
    assert len(graphed.captured) == 1
    for before, after in zip(plain, again, strict=True):
        assert torch.equal(before, after)
    assert not torch.equal(again[0], again[1])
