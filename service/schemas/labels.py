"""Words of the caller's own, by which jobs are found again."""

from typing import Annotated, Final

from pydantic import Field, StringConstraints

LABEL_KEY: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
LABEL_VALUE: Final = r"^[^\x00-\x1f\x7f]*$"

LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE, max_length=256)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
