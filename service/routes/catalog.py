"""What the service offers: models, recipes, protocols, and its kinds of problems."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException

from jobs.settings import Settings
from service import problems
from service.deps import SettingsDep
from service.errors import FieldRejected
from service.evaluation import look_up
from service.local_models import list_models, local_folder
from service.openapi import problem_responses
from service.schema_walk import allowed_at, find
from service.schemas.catalog import (
    AllowedBits,
    EstimateRead,
    ModelList,
    PresetRead,
    ProblemList,
    ProtocolList,
    ProtocolRead,
    RecipeList,
)
from service.schemas.problem import ProblemKind
from tcaq_core.estimate import estimate
from tcaq_core.evaluation.protocols import PROTOCOLS, Protocol
from tcaq_core.evaluation.spec import Evaluation
from tcaq_core.recipe import ORDER, PRESETS, Method, Recipe, resolve

SHOWN_WEIGHT_BITS: Final = 4
SHOWN_ACTIVATION_BITS: Final = 8

router = APIRouter(tags=["catalog"])


@router.get("/models")
def read_models(settings: SettingsDep) -> ModelList:
    """List the service's own models, the unusable ones with the reason."""
    return ModelList(data=list_models(settings), allow_hub=settings.allow_hub)


@router.get(
    "/recipes",
    responses=problem_responses(
        "model_not_found",
        "model_unsupported",
        "checkpoint_unsafe",
        "checkpoint_shape_mismatch",
        instance="/recipes",
    ),
)
def read_recipes(
    settings: SettingsDep, model: Annotated[str | None, Query(max_length=256)] = None
) -> RecipeList:
    """List the presets at W4A8, the schema of a method and the allowed bit widths.

    With a local model's name, each preset comes with an estimate of what it takes.
    """
    folder = None if model is None else local_folder(model, settings)
    return RecipeList(
        data=[_preset(name, folder) for name in PRESETS],
        allowed=AllowedBits(
            weight_bits=_bits("weight_bits"),
            activation_bits=_bits("activation_bits"),
            softmax_bits=_bits("softmax_bits"),
        ),
        passes=list(ORDER),
        schema=Method.model_json_schema(),
    )


@router.get("/protocols")
def read_protocols(settings: SettingsDep) -> ProtocolList:
    """List the evaluation protocols, the unusable ones with the reason."""
    return ProtocolList(data=[_protocol(p, settings) for p in PROTOCOLS.values()])


@router.get("/problems")
def read_problems() -> ProblemList:
    """List every kind of problem that the service can answer with."""
    return ProblemList(data=list(problems.kinds()))


@router.get(
    "/problems/{name}",
    responses=problem_responses("not_found", instance="/problems/none"),
)
def read_problem(name: str) -> ProblemKind:
    """Return what a problem's `type` stands for."""
    for kind in problems.kinds():
        if kind.type == f"/problems/{name}":
            return kind
    raise HTTPException(404)


def _protocol(protocol: Protocol, settings: Settings) -> ProtocolRead:
    shown = ProtocolRead(
        name=protocol.name,
        description=protocol.description,
        usable=True,
        protocol=protocol,
    )
    try:
        look_up(Evaluation(protocol=protocol.name), settings)
    except FieldRejected as error:
        reason = {"reason": error.detail, "hint": error.hint, "code": error.cause.code}
        return shown.model_copy(update={"usable": False, **reason})
    return shown


def _preset(name: str, folder: Path | None) -> PresetRead:
    recipe = resolve(
        name,
        weight_bits=SHOWN_WEIGHT_BITS,
        activation_bits=SHOWN_ACTIVATION_BITS,
    )
    description = (inspect.getdoc(PRESETS[name]) or name).splitlines()[0]
    return PresetRead(
        name=name,
        description=description,
        recipe=recipe,
        estimate=None if folder is None else _estimate(folder, recipe),
    )


def _estimate(folder: Path, recipe: Recipe) -> EstimateRead:
    found = estimate(folder, recipe)
    return EstimateRead(
        seconds=round(found.seconds, 1),
        stage_seconds={k: round(v, 1) for k, v in found.stage_seconds.items()},
        peak_memory_bytes=found.peak_memory_bytes,
        denoiser_bytes=found.denoiser_bytes,
    )


def _bits(field: str) -> list[Any]:
    # From the schema of the recipe, which is what a request is checked against.
    return list(allowed_at(find(Recipe, [field], None)) or ())
