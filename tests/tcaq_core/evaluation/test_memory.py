import pytest
import torch
from torch import Tensor

from tcaq_core.evaluation.memory import peak_bytes

CPU = torch.device("cpu")
MEBIBYTE = 2**20


def test_the_peak_is_what_is_held_at_once_not_what_was_allocated_in_all() -> None:
    def compute() -> None:
        for _ in range(5):
            first = torch.ones(MEBIBYTE // 4)
            second = first.clone()
            del first, second

    # Scalars on their way take a few bytes.
    assert 2 * MEBIBYTE <= peak_bytes(compute, CPU) < 2 * MEBIBYTE + 1024


def test_what_was_there_before_and_outputs_count_as_they_should() -> None:
    before = torch.ones(MEBIBYTE)

    def compute() -> Tensor:
        return before[: MEBIBYTE // 4].clone()

    assert MEBIBYTE <= peak_bytes(compute, CPU) < MEBIBYTE + 1024


def test_measuring_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    peak_bytes(lambda: torch.ones(4), CPU)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_peak_is_the_allocators() -> None:
    def compute() -> None:
        for _ in range(5):
            first = torch.ones(MEBIBYTE, device="cuda")
            second = first.clone()
            del first, second

    peak = peak_bytes(compute, torch.device("cuda"))
    assert peak == 8 * MEBIBYTE
