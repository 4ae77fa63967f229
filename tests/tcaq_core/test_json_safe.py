import json
import math

import pytest

from tcaq_core.json_safe import json_safe


def test_numbers_that_json_cannot_say_become_null() -> None:
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], 2: True, "c": None}
    assert json_safe(value) == {"a": [1.5, None, [None, None]], "2": True, "c": None}
    json.dumps(json_safe(value), allow_nan=False)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        json_safe({"a": b"x"})
