"""Which formats a recipe's result can be written in: refused before hours of work."""

from service.errors import refused
from service.schemas.quantization import QuantizeCreate
from tcaq_core.recipe import Modulate


def check_exports(body: QuantizeCreate) -> None:
    """Return if every format that is asked for can hold what the recipe makes.

    Raises:
        RequestInvalid: one cannot.
    """
    passes = body.resolved().method.passes
    if "onnx" in body.exports and any(isinstance(item, Modulate) for item in passes):
        raise refused(
            "/exports",
            "The pass modulate computes with the sampler's step before; an ONNX graph "
            "has no memory.",
            ["safetensors"],
        )
