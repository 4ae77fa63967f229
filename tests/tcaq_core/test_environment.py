import pytest
import torch

from tcaq_core.environment import describe_environment


def test_the_environment_names_what_decides_the_bytes() -> None:
    found = describe_environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["gpu"] is None
    assert found["cpu_capability"]


def test_processors_with_other_instructions_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As oneDNN sees them: VNNI and AMX bring kernels that sum in another order.
    own = torch.cpu.get_capabilities()
    cpu = torch.device("cpu")
    before = describe_environment(cpu)
    changed = {**own, "amx_int8": not own.get("amx_int8", False)}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: changed)
    after = describe_environment(cpu)
    assert after["cpu_features"] != before["cpu_features"]
    assert after["cpu_capability"] == before["cpu_capability"]
