from pathlib import Path

import pytest
import torch

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.environment import make_deterministic
from tcaq_core.quantization import quantize
from tcaq_core.recipe import DAQ, PAR, TCR, FitRanges, Method, resolve
from tests.tcaq_core.conftest import SPEC


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_quantized_on_a_gpu_reloads_there_bit_equal(
    tiny_folder: Path, tmp_path: Path
) -> None:
    make_deterministic()
    device = torch.device("cuda")
    passes = (TCR(), FitRanges(), DAQ(), PAR(iterations=3, round_iterations=2))
    recipe = resolve(
        Method(passes=passes), weight_bits=4, activation_bits=8, calibration=SPEC
    )
    pipeline = load_pipeline(tiny_folder, device=device)
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    checkpoint.save(
        tmp_path / "c", pipeline, result.denoiser, recipe, model={}, environment={}
    )
    loaded = checkpoint.load(tmp_path / "c", device=device)
    assert checkpoint.probe(loaded.pipeline) == checkpoint.probe(pipeline)
