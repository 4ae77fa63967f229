"""The OpenAPI document's problem responses, drawn from the table of problems."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.problems import MEDIA_TYPE, STATUS_BY_CODE, describe
from service.schemas.problem import Problem

Responses = dict[int | str, dict[str, Any]]

EXAMPLE_REQUEST_ID: Final = "6f1c0a52e0f94a0d8a8c7f7e5f0b1a3d"
BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
NOT_MODIFIED: Final = {"description": "The caller has it: If-None-Match names its ETag"}
_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}
_NONE: Final[dict[str, Any]] = {"content": {}}
_DETAILS: Final[Mapping[str, str]] = {
    "recipe_invalid": "/weight_bits: Input should be less than or equal to 8",
    "job_not_ready": "job_019ab6f0a1b27c3d8e4f5a6b7c8d9e0f is running.",
    "model_not_found": "There is no model named 'ddpm'.",
}
_ERRORS: Final[Mapping[str, dict[str, Any]]] = {
    "recipe_invalid": {
        "pointer": "/weight_bits",
        "code": "unsupported_value",
        "detail": "Input should be less than or equal to 8",
        "allowed": [2, 3, 4, 5, 6, 7, 8],
    },
    "request_invalid": {
        "pointer": "/n",
        "code": "unsupported_value",
        "detail": "At most 256 images in one sample.",
        "allowed": {"minimum": 1, "maximum": 256},
    },
    "model_not_found": {
        "pointer": "/model",
        "code": "model_not_found",
        "detail": "There is no model named 'ddpm'.",
        "allowed": ["ddpm-cifar10-small"],
    },
}


def problem_responses(*codes: str, instance: str = "/jobs") -> Responses:
    """Return the ``responses=`` of a route that can answer with these problems."""
    responses: Responses = {}
    for code in codes:
        entry = responses.setdefault(
            STATUS_BY_CODE[code],
            {"content": {MEDIA_TYPE: {"schema": _SCHEMA, "examples": {}}}},
        )
        example = _example(code, instance)
        entry["content"][MEDIA_TYPE]["examples"][code] = {"value": example}
        titles = [*filter(None, [entry.get("description")]), example["title"]]
        entry["description"] = "; ".join(titles)
    return responses


def install(app: FastAPI) -> None:
    """Make the application's document define `Problem`, which every route refers to."""
    app.openapi = partial(_document, app)  # type: ignore[method-assign] # FastAPI's documented way


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        _drop_framework_errors(document)
        schemas = document["components"]["schemas"]
        schemas |= schema.pop("$defs") | {"Problem": schema}
        app.openapi_schema = document
    return app.openapi_schema


def _drop_framework_errors(document: dict[str, Any]) -> None:
    # FastAPI adds its own 422 to every route with a parameter; ours are declared, and
    # the routes without have ids only, whose errors are 404s.
    for item in document["paths"].values():
        for operation in item.values():
            if (
                "application/json"
                in operation["responses"].get("422", _NONE)["content"]
            ):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _example(code: str, instance: str) -> dict[str, Any]:
    problem = describe(code, detail=_DETAILS.get(code, ""), instance=instance)
    example = problem.model_dump(exclude_none=True)
    example["detail"] = example["detail"] or f"{example['title']}."
    example["request_id"] = EXAMPLE_REQUEST_ID
    if code in _ERRORS:
        example["errors"] = [_ERRORS[code]]
    return example
