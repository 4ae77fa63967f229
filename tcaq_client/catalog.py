"""What the service offers: models, named recipes, protocols, as frozen data."""

from dataclasses import dataclass, field
from typing import Self

from tcaq_client.results import JsonObject


@dataclass(frozen=True)
class Model:
    """A model folder of the service."""

    name: str
    is_usable: bool
    reason: str
    """Why it cannot be quantized; empty if it can."""
    num_parameters: int | None
    sample_size: int | None
    """Side of its images in pixels."""
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, model: JsonObject) -> Self:
        """Read one item of GET /models."""
        return cls(
            name=str(model["name"]),
            is_usable=bool(model["usable"]),
            reason=str(model.get("reason") or ""),
            num_parameters=model.get("num_parameters"),
            sample_size=model.get("sample_size"),
            raw=model,
        )


@dataclass(frozen=True)
class Preset:
    """A named recipe of the service."""

    name: str
    description: str
    passes: tuple[str, ...]
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, preset: JsonObject) -> Self:
        """Read one item of GET /recipes."""
        return cls(
            name=str(preset["name"]),
            description=str(preset["description"]),
            passes=tuple(str(p["kind"]) for p in preset["recipe"]["method"]["passes"]),
            raw=preset,
        )


@dataclass(frozen=True)
class Protocol:
    """A named evaluation protocol of the service."""

    name: str
    description: str
    is_usable: bool
    reason: str
    """Why this service cannot evaluate by it; empty if it can."""
    hint: str
    """What would make it usable."""
    num_images: int
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, protocol: JsonObject) -> Self:
        """Read one item of GET /protocols."""
        return cls(
            name=str(protocol["name"]),
            description=str(protocol["description"]),
            is_usable=bool(protocol["usable"]),
            reason=str(protocol.get("reason") or ""),
            hint=str(protocol.get("hint") or ""),
            num_images=int(protocol["protocol"]["num_images"]),
            raw=protocol,
        )
