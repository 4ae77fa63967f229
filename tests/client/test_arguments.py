import pytest

from tcaq_client import arguments


def test_bits_are_settings() -> None:
    assert arguments.bits("W8A8, W4A16,W2A4S6") == [
        {"weight_bits": 8, "activation_bits": 8},
        {"weight_bits": 4, "activation_bits": 16},
        {"weight_bits": 2, "activation_bits": 4, "softmax_bits": 6},
    ]


@pytest.mark.parametrize("text", ["", "8", "W4", "A8W4", "w4a8", "W4A8,", "W4A8 W8A8"])
def test_what_is_not_bits_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="form W4A8"):
        arguments.bits(text)


def test_an_evaluation_holds_what_is_said_and_nothing_else() -> None:
    said = arguments.evaluation(
        "quick", metrics=["fd"], num_images=None, seed=0, baseline=False, labels=[]
    )
    assert said == {
        "protocol": "quick",
        "metrics": ["fd"],
        "seed": 0,
        "baseline": False,
    }
    assert arguments.evaluation(None, metrics=None) is None


def test_a_metric_needs_a_protocol() -> None:
    with pytest.raises(ValueError, match="metrics"):
        arguments.evaluation(None, metrics=["fd"])


def test_guards_are_limits_and_what_is_done() -> None:
    assert arguments.guards(None, on_violation=None) is None
    assert arguments.guards(["min_psnr_db=25"], on_violation=None) == {
        "min_psnr_db": 25
    }
    found = arguments.guards(["max_fid_increase=0.5"], on_violation="raise_bits")
    assert found == {"max_fid_increase": 0.5, "on_violation": "raise_bits"}
    with pytest.raises(ValueError, match="Nothing is guarded"):
        arguments.guards(None, on_violation="fail")
