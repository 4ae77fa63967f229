"""Which formats a recipe's result can be written in: refused before hours of work."""

from service.errors import RequestInvalid
from service.schemas.problem import FieldError
from service.schemas.submission import JobCreate
from tcaq_core.recipe import Modulate


def check_exports(body: JobCreate) -> None:
    """Return if every format that is asked for can hold what the recipe makes.

    Raises:
        RequestInvalid: one cannot.
    """
    passes = body.resolved().method.passes
    if "onnx" in body.exports and any(isinstance(item, Modulate) for item in passes):
        error = FieldError(
            pointer="/exports",
            code="unsupported_value",
            detail="The pass modulate computes with the sampler's step before; an "
            "ONNX graph has no memory.",
            allowed=["safetensors"],
        )
        raise RequestInvalid(f"/exports: {error.detail}", errors=(error,))
