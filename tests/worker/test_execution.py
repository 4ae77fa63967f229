import pytest

from tcaq_core.errors import ExecutionUnavailable
from tcaq_core.runtime.integer import Execution
from worker.execution import described, has_simulated_ops, require_integer

INTEGER = Execution("integer", "onednn-int8", 12, {})
MIXED = Execution("integer", "onednn-int8", 11, {"conv_in": "16-bit input"})
SIMULATED = Execution(
    "simulated", "torch-float32", 0, {"conv_in": "no VNNI"}, note="no VNNI here"
)


def test_full_precision_has_no_details() -> None:
    assert described(None) == {
        "execution": "full-precision",
        "execution_details": None,
    }


def test_an_execution_is_its_kind_and_the_rest() -> None:
    assert described(MIXED) == {
        "execution": "integer",
        "execution_details": {
            "kernels": "onednn-int8",
            "integer_layers": 11,
            "simulated_layers": {"conv_in": "16-bit input"},
            "note": None,
        },
    }


def test_one_simulated_layer_is_a_simulated_operation() -> None:
    assert not has_simulated_ops(INTEGER)
    assert has_simulated_ops(MIXED)
    assert has_simulated_ops(SIMULATED)


def test_what_cannot_run_on_integers_is_refused_with_the_reason() -> None:
    require_integer(INTEGER)
    require_integer(MIXED)
    with pytest.raises(ExecutionUnavailable, match="no VNNI here") as caught:
        require_integer(SIMULATED)
    assert "simulated" in caught.value.hint


def test_without_a_note_the_layers_reasons_are_given() -> None:
    layers = {"a": "too wide", "b": "too long"}
    with pytest.raises(ExecutionUnavailable, match="a: too wide; b: too long"):
        require_integer(Execution("simulated", "torch-float32", 0, layers))
