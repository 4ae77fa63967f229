"""Integer against simulated execution: the same codes, outputs within rounding."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tcaq_core.diffusion import sample
from tcaq_core.layers import QuantLayer
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.recipe import Correct, FitRanges, Method, Modulate
from tcaq_core.runtime.eager import EagerKernels
from tcaq_core.runtime.integer import compile_integer
from tcaq_core.runtime.integer_layer import IntegerLayer
from tests.tcaq_core.runtime.pairs import (
    Quantized,
    inputs_of,
    rounding_bound,
)

Make = Callable[..., Quantized]

EVERY_LAYER = [
    *(("rtn", w, a) for w, a in ((8, 8), (4, 8), (6, 6), (4, 4), (2, 8), (3, 5))),
    *(("standard", w, a) for w, a in ((8, 8), (4, 8), (4, 4))),
]
CORRECTED = Method(passes=(FitRanges(), Correct(rule="ptqd")))
MODULATED = Method(passes=(FitRanges(), Modulate()))
TIMESTEPS = (999, 600, 1)


def noise(seed: int, n: int = 3) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("preset", "weight_bits", "activation_bits"), EVERY_LAYER)
def test_every_layer_gives_the_simulated_codes_and_outputs(
    make: Make, preset: str, weight_bits: int, activation_bits: int
) -> None:
    bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    reference, compiled = make(preset, **bits), make(preset, **bits)
    execution = compile_integer(compiled.denoiser)
    assert execution.kind == "integer"
    assert not execution.simulated_layers
    layers = dict(reference.denoiser.quant_layers())
    twins = {
        name: module
        for name, module in compiled.denoiser.unet.named_modules()
        if isinstance(module, IntegerLayer)
    }
    # diffusers registers a downsampling convolution under two names.
    assert set(layers) <= set(twins)
    assert execution.integer_layers == len(layers)
    for t in TIMESTEPS:
        at = torch.tensor([t])
        forward = partial(reference.denoiser, noise(t), at.expand(3))
        seen = inputs_of(reference.denoiser.unet, QuantLayer, forward)
        assert set(seen) == set(layers)
        compiled.denoiser.unet.grid_book.turn_to(at)
        with reference.denoiser.cursor.at(at.expand(3)):
            for name, (x, out) in seen.items():
                check_layer(layers[name], twins[name], x, out)


def check_layer(
    layer: QuantLayer, twin: IntegerLayer, x: Tensor, expected: Tensor
) -> None:
    quantizer = layer.input_quantizer
    assert isinstance(quantizer, UniformQuantizer)
    x_hat = layer.quantize_input(x)
    rows = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    rows = rows if x.ndim == 4 else rows.reshape(-1, x.shape[-1])
    codes = twin.quantize((rows,))
    values = torch.cat(
        [
            (part.float() - grid.zero_point) * grid.scale
            for part, grid in zip(codes, twin.grids, strict=True)
        ],
        dim=1,
    )
    assert torch.equal(values.view_as(x_hat), x_hat)
    difference = (twin(x) - expected).abs()
    assert bool((difference <= rounding_bound(layer, x_hat)).all())


@pytest.mark.parametrize("preset", ["rtn", "standard", CORRECTED])
def test_a_denoiser_agrees_but_for_codes_at_a_tie(
    make: Make, preset: str | Method
) -> None:
    """A float sum rounded the other way can move a value across the border of a code.

    That happens between two simulated runs with other thread counts as well, and where
    depends on the processor: what a forward may differ by is a few codes at a tie.
    """
    reference, compiled = make(preset), make(preset)
    assert compile_integer(compiled.denoiser).kind == "integer"
    steps = reference.denoiser.cursor.steps
    timesteps = steps.timesteps if steps else TIMESTEPS
    worst = [
        float((compiled.denoiser(x, at) - expected).abs().max() / expected.abs().max())
        for t in timesteps
        for x, at in [(noise(t), torch.full((3,), t))]
        for expected in [reference.denoiser(x, at)]
    ]
    assert max(worst) < 0.08


def test_images_of_both_executions_are_the_same_pictures(make: Make) -> None:
    reference, compiled = make("rtn", weight_bits=8), make("rtn", weight_bits=8)
    compile_integer(compiled.denoiser)
    simulated, integer = (
        sample(one.pipeline, seeds=range(4), num_steps=5)
        for one in (reference, compiled)
    )
    assert float((simulated - integer).pow(2).mean()) < 1e-4


def test_the_bytes_depend_on_no_thread_count(make: Make) -> None:
    compiled = make("standard")
    compile_integer(compiled.denoiser)
    x, t = noise(0), torch.full((3,), 999)
    before = torch.get_num_threads()
    try:
        outputs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs.append(compiled.denoiser(x, t))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_a_sample_does_not_depend_on_its_batch(make: Make) -> None:
    compiled = make("standard")
    compile_integer(compiled.denoiser)
    x, t = noise(0), torch.full((3,), 999)
    whole = compiled.denoiser(x, t)
    single = torch.cat([compiled.denoiser(x[i : i + 1], t[:1]) for i in range(3)])
    # Layers kept in full precision add in an order of their own.
    assert torch.allclose(whole, single, rtol=0, atol=1e-5)


def test_samples_at_several_timesteps_share_a_batch(make: Make) -> None:
    compiled = make("standard")
    compile_integer(compiled.denoiser)
    x, t = noise(0, n=4), torch.tensor([999, 1, 999, 600])
    mixed = compiled.denoiser(x, t)
    for i in range(4):
        alone = compiled.denoiser(x[i : i + 1], t[i : i + 1])
        assert torch.allclose(mixed[i : i + 1], alone, rtol=0, atol=1e-5)


def test_plain_torch_kernels_agree_with_onednn(make: Make) -> None:
    eager, compiled = make("standard"), make("standard")
    assert compile_integer(eager.denoiser, kernels=EagerKernels()).kernels == (
        "eager-float32"
    )
    assert compile_integer(compiled.denoiser).kernels == "onednn-int8"
    x, t = noise(5), torch.full((3,), 999)
    difference = (eager.denoiser(x, t) - compiled.denoiser(x, t)).abs()
    assert float(difference.max()) < 0.08 * float(x.abs().max())


def test_inputs_of_sixteen_bits_stay_simulated_and_are_named(make: Make) -> None:
    reference = make("rtn", weight_bits=8, activation_bits=16)
    compiled = make("rtn", weight_bits=8, activation_bits=16)
    execution = compile_integer(compiled.denoiser)
    assert execution.kind == "simulated"
    assert set(execution.simulated_layers.values()) == {"its input has 16 bits"}
    x, t = noise(0), torch.full((3,), 500)
    assert torch.equal(reference.denoiser(x, t), compiled.denoiser(x, t))


def test_differences_between_steps_stay_simulated_and_are_named(make: Make) -> None:
    reference, compiled = make(MODULATED), make(MODULATED)
    execution = compile_integer(compiled.denoiser)
    reasons = set(execution.simulated_layers.values())
    assert reasons == {"its input is quantized by differences (modulate)"}
    for t in (999, 750):  # the second forward quantizes differences to the first
        x, at = noise(t), torch.full((3,), t)
        expected = reference.denoiser(x, at)
        difference = (compiled.denoiser(x, at) - expected).abs()
        assert float(difference.max()) < 0.08 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("isa", "weight_bits", "kind"),
    [("AVX512_CORE", 8, "simulated"), ("AVX2", 8, "simulated"), ("AVX2", 4, "integer")],
)
def test_a_processor_whose_products_saturate_is_found_out(
    isa: str, weight_bits: int, kind: str
) -> None:
    """oneDNN is told to do as older processors do: 16-bit sums of pairs."""
    code = (
        "from tcaq_core.runtime.cpu import is_exact;"
        f"print(is_exact(top=255, peak={2 ** (weight_bits - 1)}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={"ONEDNN_MAX_CPU_ISA": isa, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(kind == "integer")
