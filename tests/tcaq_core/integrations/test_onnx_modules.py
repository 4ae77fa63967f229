from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tcaq_core.integrations.onnx_modules import Moment, OnnxSoftmaxGrid
from tcaq_core.quantizers import SoftmaxQuantizer
from tcaq_core.timesteps import TimestepCursor


class Alone(nn.Module):
    """One module with a timestep, as the whole graph gives it."""

    def __init__(self, part: nn.Module, moment: Moment) -> None:
        super().__init__()
        self.part = part
        self.moment = moment

    def forward(self, a: Tensor, timestep: Tensor) -> Tensor:
        self.moment.t = timestep
        out: Tensor = self.part(a)
        return out


@pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")
@pytest.mark.parametrize(
    "log_step", [[0.0, 0.0], [1.0, 0.5], [0.0, 20 / 37]], ids=["uniform", "log", "both"]
)
def test_a_softmax_grid_is_that_of_the_timesteps_group(
    log_step: list[float], tmp_path: Path, generator: torch.Generator
) -> None:
    cursor, moment = TimestepCursor(), Moment(1000)
    grid = SoftmaxQuantizer(4, cursor=cursor, num_timesteps=1000)
    grid.fit(torch.tensor([0.5, 0.9]), torch.tensor(log_step))
    a = torch.softmax(3 * torch.randn(1, 2, 8, 8, generator=generator), dim=-1)
    # What only a grid with a zero can express.
    a[..., 0] = 0.0
    path = tmp_path / "grid.onnx"
    example: Any = (a, torch.tensor(0))
    module = Alone(OnnxSoftmaxGrid(grid, moment), moment).eval()
    torch.onnx.export(module, example, path, dynamo=True, opset_version=21)
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    for t in (0, 499, 500, 999):
        feed = dict(zip(names, (a.numpy(), torch.tensor(t).numpy()), strict=True))
        found = torch.from_numpy(session.run(None, feed)[0])
        with cursor.at(torch.tensor([t])):
            assert torch.allclose(found, grid(a), atol=1e-6)
        assert bool((found[..., 0] == 0).all())
