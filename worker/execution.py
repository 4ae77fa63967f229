"""How a checkpoint executed, in the words of a result."""

from dataclasses import asdict
from typing import Any, Literal

from tcaq_core.errors import ExecutionUnavailable
from tcaq_core.runtime.integer import Execution

Wanted = Literal["auto", "integer", "simulated"]
"""What a request asks for; ``auto`` is integer wherever that can be."""


def described(execution: Execution | None) -> dict[str, Any]:
    """Return ``execution`` and ``execution_details``; None is full precision."""
    if execution is None:
        return {"execution": "full-precision", "execution_details": None}
    details = asdict(execution)
    return {"execution": details.pop("kind"), "execution_details": details}


def has_simulated_ops(execution: Execution) -> bool:
    """Return whether any quantized layer computes in floating point."""
    return execution.kind == "simulated" or bool(execution.simulated_layers)


def require_integer(execution: Execution) -> None:
    """Return if it runs on integer kernels.

    Raises:
        ExecutionUnavailable: it does not; why is in the message.
    """
    if execution.kind == "integer":
        return
    reasons = execution.note or "; ".join(
        f"{name}: {why}" for name, why in list(execution.simulated_layers.items())[:3]
    )
    raise ExecutionUnavailable(
        "This checkpoint cannot execute on integer kernels on this worker. " + reasons,
        hint='Ask for "execution": "auto" or "simulated".',
    )
