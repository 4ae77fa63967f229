import io

from PIL import Image

from tcaq_core.heat_map import CELL, COLOURS, NO_NUMBER, Scale, heat_map
from tcaq_core.report import LayerReport, PassRows


def _report(*kinds: str, num_layers: int = 3, num_groups: int = 4) -> LayerReport:
    row = tuple(10.0 * (i + 1) for i in range(num_groups - 1))
    layers = {f"down_blocks.{i}.conv": (*row, None) for i in range(num_layers)}
    return LayerReport(
        groups=tuple((100 * g, 100 * g + 99) for g in range(num_groups)),
        passes=tuple(
            PassRows(
                kind=kind, output=(*row, None), output_gain=1.5, layers=layers, gains={}
            )
            for kind in kinds
        ),
        bytes={},
        other_bytes=0,
    )


def _picture(report: LayerReport) -> Image.Image:
    return Image.open(io.BytesIO(heat_map(report, title="tiny W4A8"))).convert("RGB")


def test_it_is_a_png_that_grows_with_layers_and_passes() -> None:
    one = _picture(_report("fit_ranges"))
    two = _picture(_report("fit_ranges", "par"))
    deep = _picture(_report("fit_ranges", num_layers=30))
    assert two.width > one.width
    assert two.height == one.height
    assert deep.height == one.height + 27 * CELL[1]


def test_every_colour_of_a_value_appears_and_gray_where_there_is_none() -> None:
    report = _report("fit_ranges")
    scale = Scale.of(report)
    found = {colour for _, colour in _picture(report).getcolors(10_000) or []}
    for decibel in (10.0, 20.0, 30.0, None):
        assert any(
            isinstance(colour, tuple)
            and max(
                abs(a - b) for a, b in zip(colour, scale.colour(decibel), strict=True)
            )
            <= 4
            for colour in found
        )


def test_the_scale_covers_the_numbers_in_steps_of_five() -> None:
    scale = Scale.of(_report("fit_ranges"))
    assert (scale.low, scale.high) == (10.0, 30.0)
    assert scale.colour(10.0) == COLOURS[0]
    assert scale.colour(30.0) == COLOURS[-1]
    assert scale.colour(99.0) == COLOURS[-1]
    assert scale.colour(None) == NO_NUMBER


def test_a_report_without_any_number_can_be_drawn() -> None:
    report = _report("fit_ranges", num_groups=1)
    assert _picture(report).width > 0


def test_the_same_report_gives_the_same_bytes() -> None:
    report = _report("fit_ranges", "par")
    assert heat_map(report, title="a") == heat_map(report, title="a")
