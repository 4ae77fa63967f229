import gc
import weakref

import torch
from torch import nn

from worker.memory import return_memory


def test_a_network_that_refers_to_itself_is_freed() -> None:
    gc.disable()
    try:
        network = nn.Linear(1, 1)
        # As a quantized network does: its forward stands on the instance.
        vars(network)["forward"] = network.forward
        reference = weakref.ref(network)
        del network
        assert reference() is not None
        return_memory(torch.device("cpu"))
        assert reference() is None
    finally:
        gc.enable()
