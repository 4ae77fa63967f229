"""Give memory back that no variable names any more."""

import gc

import torch


def return_memory(device: torch.device) -> None:
    """Free the models that were let go of; others may need their room.

    A quantized network's forward refers to the network: without a collection it
    stays, however few names it has left.
    """
    gc.collect()
    # torch keeps what was used on the GPU; the other worker may need it.
    if device.type == "cuda":
        torch.cuda.empty_cache()
