from importlib.util import find_spec

import pytest
import torch

from tcaq_core.runtime.cuda_device import OLDEST, int8_supported, why_not_int8


def test_a_processor_is_refused_by_name() -> None:
    assert why_not_int8(torch.device("cpu")) == (
        "the Triton kernels need a CUDA device, not cpu"
    )
    assert not int8_supported(torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_the_reason_says_so() -> None:
    reason = why_not_int8(torch.device("cuda"))
    assert reason == "no CUDA device is available to this installation of torch"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_with_int8_tensor_cores_and_triton_is_supported() -> None:
    device = torch.device("cuda")
    capable = torch.cuda.get_device_capability(device) >= OLDEST
    assert int8_supported(device) == (capable and find_spec("triton") is not None)
