"""Numbers that JSON cannot say become null: PostgreSQL refuses NaN in a document."""

import math
from collections.abc import Mapping


def json_safe(value: object) -> object:
    """Return the value with NaN and infinities as None, tuples as lists.

    Raises:
        TypeError: something that is no JSON, as a tensor.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): json_safe(item) for key, item in value.items()}
        case list() | tuple():
            return [json_safe(item) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")
