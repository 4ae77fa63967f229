import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tcaq_core.recipe import (
    DAQ,
    PAR,
    PRESETS,
    TCR,
    Allocate,
    CalibrationSpec,
    FitRanges,
    Method,
    Override,
    Recipe,
    Temporal,
    resolve,
)


def test_importing_the_recipe_does_not_load_torch() -> None:
    code = "import sys, tcaq_core.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize(("w", "a"), [(8, 8), (4, 8), (6, 6), (4, 4), (2, 16)])
def test_a_recipe_survives_json(preset: str, w: int, a: int) -> None:
    recipe = resolve(preset, weight_bits=w, activation_bits=a)  # type: ignore[arg-type]
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert again.digest() == recipe.digest()


@given(st.permutations([TCR(), FitRanges(), DAQ(), PAR()]), st.integers(1, 4))
def test_only_the_published_order_is_accepted(order: list[TCR], length: int) -> None:
    kinds = [item.kind for item in order[:length]]
    legal = "fit_ranges" in kinds and kinds == [
        k for k in ("tcr", "fit_ranges", "daq", "par") if k in kinds
    ]
    try:
        Method(passes=tuple(order[:length]))
    except ValidationError:
        assert not legal
    else:
        assert legal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_bits", 1),
        ("weight_bits", 9),
        ("activation_bits", 3),
        ("activation_bits", 12),
        ("softmax_bits", 3),
        ("softmax_bits", 16),
    ],
)
def test_bits_outside_their_range_are_refused(field: str, value: int) -> None:
    bits = {"weight_bits": 4, "activation_bits": 8, "softmax_bits": 8, field: value}
    with pytest.raises(ValidationError, match=field):
        Recipe.model_validate({"method": {"passes": [{"kind": "fit_ranges"}]}, **bits})


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="grops"):
        Method.model_validate({"passes": [{"kind": "tcr", "grops": 3}]})


def test_skip_comes_before_overrides_and_the_first_override_wins() -> None:
    method = Method(
        passes=(FitRanges(),),
        skip=("conv_in",),
        overrides=(
            Override(match="up.*", weight_bits=8),
            Override(match="*", activation_bits=6),
        ),
    )
    recipe = resolve(method, weight_bits=4, activation_bits=8)
    assert recipe.bits_of("conv_in") is None
    up, other = recipe.bits_of("up.0"), recipe.bits_of("mid")
    assert up is not None
    assert other is not None
    assert (up.weight_bits, up.activation_bits) == (8, 8)
    assert (other.weight_bits, other.activation_bits) == (4, 6)


def test_the_paper_truncates_at_w4a8_only() -> None:
    def truncation(w: int, a: int) -> float | None:
        recipe = resolve("tcaq-paper", weight_bits=w, activation_bits=a)  # type: ignore[arg-type]
        first = recipe.method.passes[0]
        assert isinstance(first, TCR)
        return first.truncation

    assert truncation(4, 8) == 3.0
    assert truncation(4, 4) is None
    assert truncation(8, 8) is None
    assert truncation(6, 6) is None


def test_the_digest_follows_every_field() -> None:
    one = resolve("rtn", weight_bits=4, activation_bits=8)
    two = resolve("rtn", weight_bits=5, activation_bits=8)
    assert one.digest() != two.digest()


def test_a_calibration_set_is_bounded() -> None:
    CalibrationSpec(num_samples=500, num_steps=400)
    with pytest.raises(ValidationError, match="at most 200000"):
        CalibrationSpec(num_samples=501, num_steps=400)


def test_an_unknown_preset_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        resolve("nope", weight_bits=4, activation_bits=8)


def test_cached_features_need_the_calibrated_steps() -> None:
    with pytest.raises(ValidationError, match="may choose others"):
        Method(
            passes=(
                Allocate(steps=(5, 10)),
                FitRanges(),
                Temporal(maintenance="cache"),
            )
        )


def test_a_reconstruction_that_learns_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="learns nothing"):
        PAR(learn_rounding=False)


@pytest.mark.parametrize("value", ["Infinity", "NaN"])
def test_infinite_and_missing_numbers_are_refused(value: str) -> None:
    body = f'{{"kind": "par", "learning_rate": {value}}}'
    with pytest.raises(ValidationError, match="learning_rate"):
        PAR.model_validate_json(body)
