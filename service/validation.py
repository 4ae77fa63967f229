"""From pydantic's errors to JSON pointers, codes and the values that are allowed."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service.errors import (
    BodyNotAnnounced,
    BodyNotJson,
    RecipeInvalid,
    RequestInvalid,
    ServiceError,
)
from service.schema_walk import allowed_at, find
from service.schemas.problem import FieldError
from service.schemas.submission import KIND_UNKNOWN

MAX_ERRORS: Final = 20
"""A body of errors only must not be answered with a larger one."""
RECIPE_FIELDS: Final = frozenset(
    {
        "weight_bits",
        "activation_bits",
        "softmax_bits",
        "recipe",
        "calibration",
        "settings",
        "recipes",
    }
)
_CODES: Final = {
    "missing": "missing",
    "extra_forbidden": "unknown_key",
    "union_tag_not_found": "missing",
    "value_error": "invalid_value",
}
_UNSUPPORTED: Final = frozenset(
    {
        "enum",
        "literal_error",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "union_tag_invalid",
        KIND_UNKNOWN,
        "string_pattern_mismatch",
    }
)


def explain(route: object, error: RequestValidationError) -> ServiceError:
    """Return the refusal that says what is wrong where, and what is allowed."""
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return BodyNotJson(
            f"The body is not JSON: {found[0]['ctx']['error']} at character "
            f"{found[0]['loc'][-1]}.",
            hint="Send one JSON object.",
        )
    if isinstance(error.body, bytes):
        return BodyNotAnnounced(
            "The body's Content-Type does not say that it is JSON.",
            hint="Send Content-Type: application/json.",
            headers={"Accept-Post": "application/json"},
        )
    errors = [_field_error(route, item, error.body) for item in found[:MAX_ERRORS]]
    first = errors[0].pointer or ""
    in_recipe = first.split("/")[1:2] and first.split("/")[1] in RECIPE_FIELDS
    kind = RecipeInvalid if in_recipe else RequestInvalid
    return kind(
        "; ".join(f"{_name(item)}: {item.detail}" for item in errors[:3]),
        hint="Each entry of errors names a field and what is allowed there.",
        errors=errors,
    )


def _name(error: FieldError) -> str:
    return error.parameter or error.pointer or "the body"


def _field_error(route: object, item: dict[str, Any], body: object) -> FieldError:
    part, *loc = item["loc"]
    place = find(_model_of(route, part), loc, body if part == "body" else None)
    kind = str(item["type"])
    if kind.startswith("union_tag") or kind == KIND_UNKNOWN:
        place = place.tag()
    code = _CODES.get(kind, "unsupported_value" if kind in _UNSUPPORTED else kind)
    # pydantic's prefix for a ValueError raised by one of our validators.
    detail = str(item["msg"]).removeprefix("Value error, ")
    allowed = place.known_keys() if code == "unknown_key" else allowed_at(place)
    if part == "body":
        return FieldError(
            pointer=pointer(place.path), code=code, detail=detail, allowed=allowed
        )
    name = str(loc[0]) if loc else str(part)
    return FieldError(parameter=name, code=code, detail=detail, allowed=allowed)


def pointer(path: Sequence[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) of a path of keys and indices."""
    return "".join(
        "/" + str(part).replace("~", "~0").replace("/", "~1") for part in path
    )


def _model_of(route: object, part: object) -> type[BaseModel] | None:
    if not isinstance(route, APIRoute):
        return None
    fields = [route.body_field] if part == "body" else route.dependant.query_params
    for field in fields if part in ("body", "query") else ():
        model = field.field_info.annotation if field else None
        if isinstance(model, type) and issubclass(model, BaseModel):
            return model
    return None
