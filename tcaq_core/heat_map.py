"""The layer report as a picture: layers x timestep groups, a panel for each pass."""

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from tcaq_core.report import LayerReport, PassRows
from tcaq_core.signal_noise import Decibel

CELL: Final = (26, 15)
GAP: Final = 14
TITLE_HEIGHT: Final = 64
AXIS_HEIGHT: Final = 48
MIN_WIDTH: Final = 180
"""Of a panel: its title and the words below it have to fit."""
SCALE_WIDTH: Final = 84
BAR_WIDTH: Final = 16
FONT_SIZE: Final = 12
NUMBER_SIZE: Final = 10

WHITE: Final = (255, 255, 255)
BLACK: Final = (0, 0, 0)
NO_NUMBER: Final = (214, 214, 214)
OUTPUT: Final = "predicted noise"
# Viridis: its lightness rises evenly, so it also reads in print and without colour.
COLOURS: Final = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scale:
    """The decibels that the first and the last colour stand for."""

    low: float
    high: float

    @classmethod
    def of(cls, report: LayerReport) -> "Scale":
        """Return the range of all numbers of a report, in whole steps of 5 dB."""
        rows = [row for p in report.passes for row in (*p.layers.values(), p.output)]
        values = [d for row in rows for d in row if d is not None] or [0.0]
        low = 5.0 * (min(values) // 5)
        return cls(low, max(low + 5, 5.0 * -(-max(values) // 5)))

    def colour(self, decibel: Decibel) -> Colour:
        """Return the colour of a value; gray where there is none."""
        if decibel is None:
            return NO_NUMBER
        share = (decibel - self.low) / (self.high - self.low)
        position = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
        index = min(int(position), len(COLOURS) - 2)
        pairs = zip(COLOURS[index], COLOURS[index + 1], strict=True)
        red, green, blue = (round(a + (b - a) * (position - index)) for a, b in pairs)
        return red, green, blue


def heat_map(report: LayerReport, *, title: str) -> bytes:
    """Return a PNG; gray cells have no finite number.

    Rows are the layers in the order of execution, then the predicted noise.
    """
    font, small = ImageFont.load_default(FONT_SIZE), ImageFont.load_default(NUMBER_SIZE)
    names = list(dict.fromkeys(name for p in report.passes for name in p.layers))
    labels = [*names, OUTPUT]
    left = GAP + round(max(font.getlength(label) for label in labels)) + 8
    width = max(len(report.groups) * CELL[0], MIN_WIDTH)
    height = len(labels) * CELL[1] + GAP
    panels = [left + i * (width + GAP) for i in range(len(report.passes))]
    right = left + len(panels) * (width + GAP)
    size = (right + SCALE_WIDTH, TITLE_HEIGHT + height + AXIS_HEIGHT)
    picture = Image.new("RGB", size, WHITE)
    canvas = _Canvas(ImageDraw.Draw(picture), font, small, Scale.of(report))
    canvas.text((GAP, 10), title)
    canvas.text((GAP, 28), "signal-to-noise ratio in dB; more is better")
    for index, label in enumerate(labels):
        canvas.text((left - 8, _top(index, labels) + CELL[1] // 2), label, "rm")
    for start, rows in zip(panels, report.passes, strict=True):
        canvas.panel(start, rows, names)
        canvas.timesteps(start, TITLE_HEIGHT + height, report)
    canvas.scale_bar(right, TITLE_HEIGHT, height)
    buffer = io.BytesIO()
    # A palette takes a third of the bytes, and digits look the same.
    picture.quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _top(index: int, labels: list[str]) -> int:
    # A gap sets the predicted noise apart from the layers.
    gap = GAP if index == len(labels) - 1 else 0
    return TITLE_HEIGHT + index * CELL[1] + gap


@dataclass(frozen=True)
class _Canvas:
    draw: ImageDraw.ImageDraw
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    small: ImageFont.FreeTypeFont | ImageFont.ImageFont
    scale: Scale

    def text(self, at: tuple[float, float], text: str, anchor: str = "la") -> None:
        """Write in black."""
        self.draw.text(at, text, fill=BLACK, font=self.font, anchor=anchor)

    def panel(self, left: int, rows: PassRows, names: list[str]) -> None:
        """Draw what one pass left behind."""
        gain = "" if rows.output_gain is None else f"  {rows.output_gain:+.1f} dB"
        self.text((left, TITLE_HEIGHT - 6), f"after {rows.kind}{gain}", "ls")
        labels = [*names, OUTPUT]
        for index, name in enumerate(names):
            self._row(left, _top(index, labels), rows.layers.get(name, ()))
        self._row(left, _top(len(names), labels), rows.output)

    def timesteps(self, left: int, top: int, report: LayerReport) -> None:
        """Write below a panel which timesteps its columns are."""
        for index, (first, _) in enumerate(report.groups):
            at = (left + (index + 0.5) * CELL[0], top + 6)
            self.draw.text(at, str(first), fill=BLACK, font=self.small, anchor="ma")
        middle = left + len(report.groups) * CELL[0] / 2
        self.text((middle, top + 24), "timestep: image to noise", "ma")

    def scale_bar(self, left: int, top: int, height: int) -> None:
        """Draw the colours and what they stand for."""
        low, high = self.scale.low, self.scale.high
        for y in range(height):
            decibel = high - (high - low) * y / (height - 1)
            line = (left, top + y, left + BAR_WIDTH, top + y)
            self.draw.line(line, fill=self.scale.colour(decibel))
        step = 5 if high - low <= 60 else 10
        for tick in range(int(low), int(high) + 1, step):
            y = round(top + (high - tick) / (high - low) * (height - 1))
            line = (left + BAR_WIDTH, y, left + BAR_WIDTH + 4, y)
            self.draw.line(line, fill=BLACK)
            self.text((left + BAR_WIDTH + 8, y), f"{tick}", "lm")
        self.text((left, top - 6), "dB", "ls")

    def _row(self, left: int, top: int, row: tuple[Decibel, ...]) -> None:
        for index, decibel in enumerate(row):
            x = left + index * CELL[0]
            colour = self.scale.colour(decibel)
            # One pixel of white stays between cells.
            box = (x, top, x + CELL[0] - 2, top + CELL[1] - 2)
            self.draw.rectangle(box, fill=colour)
            if decibel is None:
                continue
            red, green, blue = colour
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
            middle = (x + CELL[0] / 2 - 1, top + CELL[1] / 2 - 1)
            ink = WHITE if is_dark else BLACK
            text = f"{decibel:.0f}"
            self.draw.text(middle, text, fill=ink, font=self.small, anchor="mm")
