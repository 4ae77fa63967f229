from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError

from service.routes.jobs import KINDS
from service.schemas.problem import Problem
from service.schemas.sample import SampleCreate
from service.schemas.submission import JobCreate

ROUTES = {
    ("post", "/jobs"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("post", "/jobs/{job_id}/cancel"),
    ("get", "/jobs/{job_id}/checkpoint"),
    ("get", "/jobs/{job_id}/report"),
    ("get", "/jobs/{job_id}/onnx"),
    ("get", "/jobs/{job_id}/scores"),
    ("get", "/artifacts/{sha256}/content"),
    ("post", "/sample"),
    ("get", "/samples/{sample_id}"),
    ("get", "/models"),
    ("get", "/recipes"),
    ("get", "/protocols"),
    ("get", "/problems"),
    ("get", "/problems/{name}"),
    ("get", "/healthz"),
    ("get", "/readyz"),
}


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return app.openapi()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return every operation by method and path."""
    return {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_the_document_covers_exactly_the_routes(document: dict[str, Any]) -> None:
    assert set(operations(document)) == ROUTES


def test_every_error_of_every_route_is_a_problem_with_a_valid_example(
    document: dict[str, Any],
) -> None:
    schema = Problem.model_json_schema()
    for operation in operations(document).values():
        errors = {
            int(status): response
            for status, response in operation["responses"].items()
            if int(status) >= 400
        }
        assert 500 in errors
        for status, response in errors.items():
            assert list(response["content"]) == ["application/problem+json"]
            content = response["content"]["application/problem+json"]
            assert content["schema"]["$ref"] == "#/components/schemas/Problem"
            assert response["description"]
            for code, example in content["examples"].items():
                jsonschema.validate(example["value"], schema)
                assert example["value"]["status"] == status
                assert example["value"]["code"] == code


def test_every_reference_of_the_document_leads_somewhere(
    document: dict[str, Any],
) -> None:
    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for item in node.values() for ref in references(item)]
        if isinstance(node, list):
            return [ref for item in node for ref in references(item)]
        return []

    schemas = document["components"]["schemas"]
    prefix = "#/components/schemas/"
    assert {ref.removeprefix(prefix) for ref in references(document)} <= set(schemas)
    assert "HTTPValidationError" not in schemas


@pytest.mark.parametrize("model", [JobCreate, SampleCreate])
def test_the_examples_of_bodies_are_legal(
    document: dict[str, Any], model: type[BaseModel]
) -> None:
    for example in document["components"]["schemas"][model.__name__]["examples"]:
        body = model.model_validate(example).model_dump(mode="json")
        assert example.keys() <= body.keys()
        with pytest.raises(ValidationError):
            model.model_validate(example | {"not_a_field": 1})


def test_there_is_an_example_of_every_kind_of_job(document: dict[str, Any]) -> None:
    examples = document["components"]["schemas"]["JobCreate"]["examples"]
    kinds = {JobCreate.model_validate(example).root.kind for example in examples}
    assert kinds == {kind.value for kind in KINDS}


def test_what_an_evaluation_can_be_refused_for_is_documented(
    document: dict[str, Any],
) -> None:
    answer = operations(document)["post", "/jobs"]["responses"]["422"]
    examples = answer["content"]["application/problem+json"]["examples"]
    assert {
        "evaluation_failed",
        "extractor_unavailable",
        "reference_unusable",
    } <= set(examples)


def test_files_are_documented_with_their_ranges(document: dict[str, Any]) -> None:
    download = operations(document)["get", "/jobs/{job_id}/checkpoint"]["responses"]
    assert {"200", "206", "304", "404", "409", "416"} <= set(download)
    assert "application/x-tar" in download["200"]["content"]
    sample = operations(document)["post", "/sample"]["responses"]
    assert set(sample["200"]["content"]) == {"application/json", "image/png"}
    assert "406" in sample
