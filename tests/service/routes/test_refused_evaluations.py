"""What cannot be scored is refused before anything is queued, and says why."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from jobs.settings import Settings
from service.app import create_app
from service.evaluation import look_up
from tcaq_core.evaluation.protocols import PROTOCOLS
from tcaq_core.evaluation.spec import Evaluation
from tests.service import ledger
from tests.service.evaluations import (
    NETWORK,
    NUM_REFERENCE_IMAGES,
    QUICK,
    REFERENCE,
    make_network,
    make_reference,
    network,
)
from tests.service.models import W4A8
from tests.service.refusals import KINDS, refused


@pytest.mark.parametrize("kind", KINDS, ids=["quantize", "evaluate", "sweep"])
@pytest.mark.parametrize(
    ("evaluation", "code", "pointer", "hint"),
    [
        (
            {"protocol": "cifar10-50k"},
            "extractor_unavailable",
            "/evaluation/extractor",
            "TCAQ_INCEPTION_WEIGHTS",
        ),
        (
            QUICK | {"extractor": "resnet-none"},
            "extractor_unavailable",
            "/evaluation/extractor",
            NETWORK,
        ),
        (
            QUICK | {"reference": "none"},
            "reference_unusable",
            "/evaluation/reference",
            "tcaq reference",
        ),
        (
            QUICK | {"num_images": 16},
            "evaluation_failed",
            "/evaluation/num_images",
            "17 images",
        ),
        (
            {"protocol": "imagenet256-50k"},
            "model_unsupported",
            "/evaluation/protocol",
            "GET /protocols",
        ),
        (
            {"protocol": "coco-30k"},
            "model_unsupported",
            "/evaluation/protocol",
            "GET /protocols",
        ),
    ],
    ids=["no weights", "no network", "no reference", "few", "classes", "prompts"],
)
def test_what_the_service_lacks_is_named_with_the_remedy(
    client: TestClient,
    settings: Settings,
    *,
    kind: dict[str, Any],
    evaluation: dict[str, Any],
    code: str,
    pointer: str,
    hint: str,
) -> None:
    problem = refused(client, kind | {"evaluation": evaluation})
    assert (problem["status"], problem["code"]) == (422, code)
    assert problem["error"]["code"] == code
    assert problem["pointer"] == pointer
    assert hint in problem["hint"]
    assert ledger.messages(settings) == []


def test_what_could_be_named_instead_is_listed(client: TestClient) -> None:
    known = {"reference": [REFERENCE]}
    for field, allowed in known.items():
        problem = refused(client, W4A8 | {"evaluation": QUICK | {field: "none"}})
        assert problem["error"]["allowed"] == allowed
    problem = refused(client, W4A8 | {"evaluation": {"protocol": "coco-30k"}})
    assert "quick" in problem["error"]["allowed"]
    assert "imagenet256-50k" not in problem["error"]["allowed"]


def test_an_evaluation_of_a_protocol_without_reference_has_to_name_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = PROTOCOLS["quick"].model_copy(update={"reference": None})
    monkeypatch.setitem(PROTOCOLS, "quick", bare)
    with TestClient(create_app(settings)) as client:
        unnamed = {k: v for k, v in QUICK.items() if k != "reference"}
        problem = refused(client, W4A8 | {"evaluation": unnamed})
        assert problem["pointer"] == "/evaluation/reference"
        assert problem["code"] == "reference_unusable"
        assert problem["error"]["allowed"] == [REFERENCE]
        (quick, *_) = client.get("/protocols").json()["data"]
        assert not quick["usable"]


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        ({"protocol": "best"}, "/evaluation/protocol", "known: ['quick'"),
        ({"metrics": ["fid"]}, "/evaluation", "ask for ['fd']"),
        ({"metrics": []}, "/evaluation/metrics", "at least 1"),
        ({"metrics": ["lpips"]}, "/evaluation/metrics/0", "Input should be"),
        ({"num_images": 1}, "/evaluation/num_images", "greater than"),
        ({"seed": -1}, "/evaluation/seed", "greater than"),
        ({"extractor": "../x"}, "/evaluation/extractor", "match pattern"),
        ({"reference": "a/b"}, "/evaluation/reference", "match pattern"),
        ({"images": 5}, "/evaluation/images", "not permitted"),
        (
            {"baseline": False, "metrics": ["psnr_db"]},
            "/evaluation",
            "set baseline true",
        ),
    ],
)
def test_an_evaluation_outside_its_schema_is_refused_at_the_field(
    client: TestClient, change: dict[str, Any], pointer: str, said: str
) -> None:
    for kind in KINDS:
        problem = refused(client, kind | {"evaluation": QUICK | change})
        assert (problem["status"], problem["pointer"]) == (422, pointer)
        assert said in problem["error"]["detail"]


def test_a_name_that_a_reference_hides_behind_is_not_opened(
    client: TestClient, settings: Settings
) -> None:
    folder = settings.evaluation_directory / "references"
    outside = folder.parent / "outside.safetensors"
    (folder / f"{REFERENCE}.safetensors").rename(outside)
    (folder / "link.safetensors").symlink_to(outside)
    problem = refused(client, W4A8 | {"evaluation": QUICK | {"reference": "link"}})
    assert problem["code"] == "reference_unusable"


def test_a_reference_made_with_another_network_is_refused(
    client: TestClient, settings: Settings
) -> None:
    folder = settings.evaluation_directory
    other = network(folder).model_copy(update={"weights_sha256": "d" * 64})
    make_reference(folder, "other", extractor=other)
    problem = refused(client, W4A8 | {"evaluation": QUICK | {"reference": "other"}})
    assert (problem["pointer"], problem["code"]) == (
        "/evaluation/reference",
        "reference_unusable",
    )
    assert "weights_sha256" in problem["detail"]


def test_a_reference_without_features_has_no_kernel_distance(
    client: TestClient, settings: Settings
) -> None:
    folder = settings.evaluation_directory
    make_reference(folder, "bare", extractor=network(folder), has_features=False)
    evaluation = QUICK | {"reference": "bare", "metrics": ["fd", "kd"]}
    problem = refused(client, W4A8 | {"evaluation": evaluation})
    assert problem["pointer"] == "/evaluation/reference"
    assert "--no-features" in problem["hint"]


def test_a_damaged_reference_is_refused(
    client: TestClient, settings: Settings, store: LocalStore
) -> None:
    path = settings.evaluation_directory / "references" / f"{REFERENCE}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    problem = refused(client, W4A8 | {"evaluation": QUICK})
    assert problem["pointer"] == "/evaluation/reference"
    assert "again" in problem["hint"]


def test_a_refused_evaluation_leaves_nothing_in_the_store(
    client: TestClient, settings: Settings, store: LocalStore
) -> None:
    refused(client, W4A8 | {"evaluation": QUICK | {"num_images": 16}})
    plan = look_up(Evaluation.model_validate(QUICK), settings).plan
    assert plan.reference is not None
    assert not store.exists(plan.reference.stats_sha256)


def test_images_of_another_size_than_the_network_takes_are_refused(
    client: TestClient, settings: Settings
) -> None:
    folder = settings.evaluation_directory
    make_network(folder / "extractors" / "wide-net", image_size=32)
    wide = network(folder, "wide-net")
    make_reference(folder, "wide", extractor=wide, side=32)
    evaluation = QUICK | {"extractor": "wide-net", "reference": "wide"}
    for kind in KINDS:
        problem = refused(client, kind | {"evaluation": evaluation})
        assert problem["code"] == "evaluation_failed"
        assert problem["pointer"] == "/evaluation/extractor"
        assert "16 pixels" in problem["detail"]
        assert "16" in problem["detail"]


def test_images_of_another_size_than_the_reference_are_refused(
    client: TestClient, settings: Settings
) -> None:
    folder = settings.evaluation_directory
    make_reference(folder, "large", extractor=network(folder), side=32)
    problem = refused(client, W4A8 | {"evaluation": QUICK | {"reference": "large"}})
    assert problem["pointer"] == "/evaluation/reference"


def test_a_protocol_for_images_of_another_size_is_refused(client: TestClient) -> None:
    evaluation = {"protocol": "cifar10-50k", "metrics": ["psnr_db"]}
    problem = refused(client, W4A8 | {"evaluation": evaluation})
    assert problem["code"] == "evaluation_failed"
    assert problem["pointer"] == "/evaluation/protocol"


def test_a_network_that_the_protocol_s_images_do_not_fit_is_refused(
    client: TestClient,
) -> None:
    evaluation = QUICK | {"protocol": "cifar10-50k", "metrics": ["fd"]}
    problem = refused(client, W4A8 | {"evaluation": evaluation})
    assert problem["code"] == "evaluation_failed"
    assert problem["pointer"] == "/evaluation/extractor"


@pytest.mark.parametrize(
    ("metric", "num_images", "pointer"),
    [("sfd", 112, "/evaluation/num_images"), ("sfd", 113, None), ("fd", 17, None)],
)
def test_the_least_number_of_images_depends_on_the_features(
    client: TestClient, metric: str, num_images: int, pointer: str | None
) -> None:
    evaluation = QUICK | {"metrics": [metric], "num_images": num_images}
    body = W4A8 | {"evaluation": evaluation}
    if pointer is None:
        assert client.post("/jobs", json=body).status_code == 202
        return
    assert refused(client, body)["pointer"] == pointer
    assert num_images < NUM_REFERENCE_IMAGES
