from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import load_pipeline
from tcaq_core.errors import ExportFailed, ModelUnsupported
from tcaq_core.integrations import onnx as exporter
from tcaq_core.integrations.onnx import ExportReport, export_onnx
from tcaq_core.integrations.onnx_check import check_onnx
from tcaq_core.integrations.onnx_file import weight_initializers
from tcaq_core.layers import QuantLayer
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    DAQ,
    TCR,
    CalibrationSpec,
    Correct,
    FitRanges,
    Method,
    Modulate,
    Pass,
    Split,
    Temporal,
    resolve,
)
from tcaq_core.recipe.published import FULL_PRECISION_LAYERS
from tcaq_core.recipe.recipe import ActivationBits, WeightBits

SPEC = CalibrationSpec(num_samples=4, num_steps=5)
STEPS = (800, 600, 400, 200, 0)
PLAIN: tuple[Pass, ...] = (FitRanges(weight="min_max", activation="min_max"),)
# Whatever a graph has to say: parts, factors, tables, softmax grids, correction.
EVERYTHING: tuple[Pass, ...] = (
    Split(),
    TCR(strength=0.5),
    FitRanges(timesteps="step"),
    DAQ(num_groups=4),
    Correct(num_samples=4),
)
CACHED: tuple[Pass, ...] = (
    FitRanges(timesteps="groups", num_groups=2),
    Temporal(maintenance="cache"),
)


@dataclass(frozen=True)
class Exported:
    denoiser: QuantizedDenoiser
    path: Path
    report: ExportReport

    def run(self, sample: torch.Tensor, t: int) -> torch.Tensor:
        session = onnxruntime.InferenceSession(self.path)
        feed = {"sample": sample.numpy(), "timestep": torch.tensor(t).numpy()}
        return torch.from_numpy(session.run(["eps"], feed)[0])

    def layers(self) -> dict[str, QuantLayer]:
        return dict(self.denoiser.quant_layers())


def quantized(
    folder: Path,
    passes: tuple[Pass, ...],
    *,
    weights: WeightBits,
    activations: ActivationBits,
) -> QuantizedDenoiser:
    pipeline = load_pipeline(folder, device=torch.device("cpu"))
    recipe = resolve(
        Method(passes=passes, skip=FULL_PRECISION_LAYERS),
        weight_bits=weights,
        activation_bits=activations,
        calibration=SPEC,
    )
    return quantize(pipeline, recipe, progress=lambda *_: None).denoiser


def exported(
    folder: Path,
    scratch: Path,
    passes: tuple[Pass, ...],
    *,
    weights: WeightBits,
    activations: ActivationBits,
) -> Exported:
    denoiser = quantized(folder, passes, weights=weights, activations=activations)
    path = scratch / "model.onnx"
    return Exported(denoiser, path, export_onnx(denoiser, path))


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    scratch = tmp_path_factory.mktemp("plain")
    return exported(tiny_folder, scratch, PLAIN, weights=8, activations=8)


@pytest.fixture(scope="module")
def everything(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    scratch = tmp_path_factory.mktemp("everything")
    return exported(tiny_folder, scratch, EVERYTHING, weights=4, activations=4)


@pytest.fixture(scope="module")
def cached(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    scratch = tmp_path_factory.mktemp("cached")
    return exported(tiny_folder, scratch, CACHED, weights=3, activations=5)


def test_activations_that_are_not_quantized_stay_so_in_onnxruntime(
    tiny_folder: Path, tmp_path: Path
) -> None:
    made = exported(tiny_folder, tmp_path, PLAIN, weights=4, activations=16)
    for found in (made.report.checked.plain, made.report.checked.optimized):
        assert found.relative_error < 1e-5


@pytest.mark.parametrize("name", ["plain", "everything", "cached"])
def test_where_no_code_flips_the_file_is_the_denoiser_to_float_rounding(
    name: str, request: pytest.FixtureRequest
) -> None:
    made: Exported = request.getfixturevalue(name)
    for found in (made.report.checked.plain, made.report.checked.optimized):
        assert found.median_error < 1e-5
        assert found.relative_error < 0.05
    assert made.report.size_bytes == made.path.stat().st_size
    assert made.report.as_dict()["opset"] == 21


def test_every_quantized_layer_multiplies_integers_by_integers(plain: Exported) -> None:
    graph = onnx.load(plain.path).graph
    made_by = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in {"Conv", "MatMul"}]
    # Convolutions left alone: at the input and at the output.
    on_grids = [
        node
        for node in products
        if all(
            made_by[name].op_type in {"DequantizeLinear", "Transpose", "Reshape"}
            for name in node.input[:2]
            if name in made_by
        )
        and node.input[1] in made_by
    ]
    attentions = len(list(plain.denoiser.attentions()))
    assert len(on_grids) == len(plain.layers()) + 2 * attentions
    assert len(products) == len(on_grids) + 2


def test_the_file_holds_the_denoisers_own_codes(plain: Exported) -> None:
    stored = weight_initializers(onnx.load(plain.path).graph)
    assert len(stored) == len(plain.layers())
    for name, layer in plain.layers().items():
        tensor = stored[f"unet.{name}.weights.0.weight_codes"]
        assert tensor.data_type == onnx.TensorProto.INT8
        codes = torch.from_numpy(numpy_helper.to_array(tensor).copy()).int()
        codes = codes if codes.ndim == 4 else codes.T
        zero_point = layer.weight_zero_point.view(-1, *[1] * (codes.ndim - 1)).int()
        assert torch.equal(codes, layer.codes().int() - zero_point)


def test_weights_of_four_bits_take_half_a_byte(everything: Exported) -> None:
    stored = weight_initializers(onnx.load(everything.path).graph)
    assert {t.data_type for t in stored.values()} == {onnx.TensorProto.UINT4}
    num_codes = sum(layer.codes().numel() for layer in everything.layers().values())
    assert sum(len(tensor.raw_data) for tensor in stored.values()) == num_codes / 2


def test_the_batch_is_free_and_no_sample_sees_another(
    everything: Exported, generator: torch.Generator
) -> None:
    sample = torch.randn(3, 3, 8, 8, generator=generator)
    together = everything.run(sample, 600)
    apart = torch.cat([everything.run(one, 600) for one in sample.split(1)])
    assert torch.allclose(together, apart, atol=1e-5)


def test_a_timestep_between_steps_reads_the_nearest_row(
    everything: Exported, generator: torch.Generator
) -> None:
    """Ties go to the later step, as in the cursor: 700 is as far from 800 as from 600.

    Off the steps the time embedding differs, so that rows alone would not show; with
    the denoiser's own prediction beside it they do.
    """
    assert everything.denoiser.cursor.steps is not None
    assert everything.denoiser.cursor.steps.timesteps == STEPS
    sample = torch.randn(4, 3, 8, 8, generator=generator)
    for t in (999, 701, 700, 699, 101, 1):
        expected = everything.denoiser(sample, torch.full((4,), t))
        error = (everything.run(sample, t) - expected).flatten(1).norm(dim=1)
        assert float(error.median() / expected[0].norm()) < 1e-5


def test_a_timestep_without_cached_features_predicts_nan(
    cached: Exported, generator: torch.Generator
) -> None:
    sample = torch.randn(1, 3, 8, 8, generator=generator)
    assert bool(torch.isfinite(cached.run(sample, 600)).all())
    assert bool(torch.isnan(cached.run(sample, 601)).all())


def test_an_export_leaves_the_denoiser_as_it_was_and_repeats_to_the_byte(
    plain: Exported, tmp_path: Path, generator: torch.Generator
) -> None:
    denoiser = plain.denoiser
    sample, t = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([600, 3])
    before = dict(denoiser.unet.named_modules())
    expected = denoiser(sample, t)
    again = tmp_path / "model.onnx"
    export_onnx(denoiser, again)
    assert dict(denoiser.unet.named_modules()) == before
    assert torch.equal(denoiser(sample, t), expected)
    assert again.read_bytes() == plain.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_file_tells_nothing_of_where_it_was_written(plain: Exported) -> None:
    written = plain.path.read_bytes()
    assert b"tcaq_core" not in written
    assert str(Path.cwd()).encode() not in written


def test_a_file_with_another_grid_is_refused(plain: Exported, tmp_path: Path) -> None:
    model = onnx.load(plain.path)
    name = "unet.mid_block.resnets.0.conv1.weights.0.scale"
    scale = next(t for t in model.graph.initializer if t.name == name)
    doubled = 2 * numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(doubled, name))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(ExportFailed, match="predicts something else"):
        check_onnx(plain.denoiser, path)


def test_a_damaged_file_is_refused(plain: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(plain.path.read_bytes()[:-1000])
    with pytest.raises(ExportFailed, match="read or run"):
        check_onnx(plain.denoiser, path)


def test_differences_to_the_step_before_are_refused_by_the_passes_name(
    tiny_folder: Path, tmp_path: Path
) -> None:
    passes = (*PLAIN, Modulate(num_samples=2))
    denoiser = quantized(tiny_folder, passes, weights=4, activations=8)
    with pytest.raises(ModelUnsupported, match="modulate"):
        export_onnx(denoiser, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_denoiser_in_full_precision_is_refused(
    denoiser: QuantizedDenoiser, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnsupported, match="nothing to export"):
        export_onnx(denoiser, tmp_path / "model.onnx")


def test_more_than_one_file_holds_is_refused_before_it_is_traced(
    plain: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "MAX_TENSOR_BYTES", 100_000)
    with pytest.raises(ExportFailed, match="one ONNX file"):
        export_onnx(plain.denoiser, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
