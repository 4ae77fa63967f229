import torch

from tcaq_core.environment import describe_environment


def test_the_environment_names_what_decides_the_bytes() -> None:
    found = describe_environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["gpu"] is None
    assert found["cpu_capability"]
