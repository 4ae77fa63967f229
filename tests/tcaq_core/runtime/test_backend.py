"""The fastest kernels that are exact; where there are none, simulation and a reason."""

from collections.abc import Callable

import pytest
import torch

from tcaq_core.runtime import backend
from tcaq_core.runtime.backend import NoKernels, fastest_kernels
from tcaq_core.runtime.integer import compile_integer
from tcaq_core.runtime.native import Native, NativeMissing
from tests.tcaq_core.runtime.pairs import Quantized

Make = Callable[..., Quantized]


def test_a_processor_runs_onednn(make: Make) -> None:
    kernels, note = fastest_kernels(make("rtn").denoiser)
    assert kernels.name == "onednn-int8"
    assert note is None


def test_where_products_saturate_the_answer_is_simulated_and_says_why(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def saturates(*, top: int, peak: int) -> bool:
        asked.append((top, peak))
        return False

    monkeypatch.setattr(backend, "is_exact", saturates)
    reference, denoiser = make("rtn", weight_bits=8), make("rtn", weight_bits=8)
    execution = compile_integer(denoiser.denoiser)
    assert execution.kind == "simulated"
    assert execution.kernels == "torch-float32"
    assert "VNNI" in str(execution.note)
    assert len(execution.simulated_layers) > 40
    assert asked == [(255, 128)]
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([500])
    assert torch.equal(denoiser.denoiser(x, t), reference.denoiser(x, t))


def test_without_compiled_glue_integers_run_and_the_note_says_so(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Native:
        raise NativeMissing("the compiled kernels were not built at installation")

    monkeypatch.setattr(backend, "load_native", missing)
    execution = compile_integer(make("rtn").denoiser)
    assert execution.kind == "integer"
    assert "not built" in str(execution.note)


def test_another_device_has_no_kernels(make: Make) -> None:
    denoiser = make("rtn").denoiser
    denoiser.unet.to("meta")
    with pytest.raises(NoKernels, match="meta"):
        fastest_kernels(denoiser)
