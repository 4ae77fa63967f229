"""All passes, and the only order in which they may appear."""

from typing import Annotated

from pydantic import Field

from tcaq_core.recipe.data import Allocate, Select, Split
from tcaq_core.recipe.ranges import DAQ, TCR, FitRanges, Temporal
from tcaq_core.recipe.reconstruction import PAR, SecondOrder
from tcaq_core.recipe.trajectory import Correct, Modulate

Pass = Annotated[
    Select
    | Allocate
    | Split
    | TCR
    | FitRanges
    | Temporal
    | DAQ
    | SecondOrder
    | PAR
    | Modulate
    | Correct,
    Field(discriminator="kind"),
]

ORDER: tuple[str, ...] = (
    "select",
    "allocate",
    "split",
    "tcr",
    "fit_ranges",
    "temporal",
    "daq",
    "second_order",
    "par",
    "modulate",
    "correct",
)
"""The only order in which passes may appear: data, so illegal recipes cannot exist."""
