"""Find the part of a model's JSON Schema that a validation error is about.

The allowed values that a problem names are read from the same schema that the OpenAPI
document shows, so the two cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

Schema = dict[str, Any]

LISTED_INTEGERS: Final = 64
"""An integer range up to this long is written out value by value."""
_BOUNDS: Final = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "pattern",
)


@dataclass(frozen=True)
class Place:
    """Where in a document an error lies, and the schema that holds there."""

    root: Schema
    node: Schema
    parent: Schema
    path: tuple[str | int, ...] = ()

    def child(self, key: str | int, node: Schema) -> "Place":
        """Return the place one key or index further down."""
        resolved = resolve(self.root, node)
        return Place(self.root, resolved, self.node, (*self.path, key))

    def tag(self) -> "Place":
        """Return the place of the key that chooses between the variants here."""
        name = self.node.get("discriminator", {}).get("propertyName", "kind")
        return self.child(name, {"enum": self.kinds()})

    def kinds(self) -> list[Any]:
        """Return the values of that key; none where the variants have no such key."""
        name = self.node.get("discriminator", {}).get("propertyName", "kind")
        variants = [resolve(self.root, item) for item in self.node.get("oneOf", ())]
        keys = [item.get("properties", {}).get(name, {}) for item in variants]
        return [key["const"] for key in keys if "const" in key]

    def known_keys(self) -> list[Any]:
        """Return the keys that the object around this place may have."""
        return list(self.parent.get("properties", {}))


def find(
    model: type[BaseModel] | None, loc: Sequence[str | int], body: object
) -> Place:
    """Return where pydantic's `loc` points; `body` decides between untagged variants.

    pydantic writes the name of the variant it chose into `loc`, as if it were a key;
    those are left out of the path.
    """
    schema = _schema(model) if model else {}
    place, value = Place(schema, schema, {}), body
    for part in loc:
        if part == "[key]":
            # The error is about the key itself, which is the path's last part already.
            patterns = list(place.parent.get("patternProperties", {}))
            return replace(place, node={"pattern": patterns[0]} if patterns else {})
        if "oneOf" in place.node:
            place = replace(place, node=_variant(place, part, value))
            continue
        place = place.child(part, _below(place.node, part))
        value = _step(value, part)
    return place


def resolve(root: Schema, node: Schema) -> Schema:
    """Return the schema behind a reference or beside a null."""
    if "$ref" in node:
        return resolve(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    variants = [item for item in node.get("anyOf", ()) if item.get("type") != "null"]
    return resolve(root, variants[0]) if len(variants) == 1 else node


def allowed_at(place: Place) -> list[Any] | Schema | None:
    """Return the values allowed at a place, or their bounds; None if any will do."""
    node = place.node
    items = node.get("items", {})
    if "oneOf" in items:
        item = replace(place, node=items)
        return item.kinds() or allowed_at(item)
    values = _listed(node)
    for variant in node.get("oneOf", ()):
        values += list(resolve(place.root, variant).get("enum", ()))
    bounds: Schema = {key: node[key] for key in _BOUNDS if key in node}
    return values or bounds or None


def _listed(node: Schema) -> list[Any]:
    if "const" in node:
        return [node["const"]]
    if node.get("type") == "boolean":
        return [True, False]
    if node.get("type") == "integer" and {"minimum", "maximum"} <= node.keys():
        whole = range(node["minimum"], node["maximum"] + 1)
        return list(whole) if len(whole) <= LISTED_INTEGERS else []
    return list(node["enum"] if "enum" in node else node.get("properties", {}))


@cache
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _variant(place: Place, tag: str | int, value: object) -> Schema:
    mapping = place.node.get("discriminator", {}).get("mapping", {})
    if tag in mapping:
        return resolve(place.root, {"$ref": mapping[tag]})
    variants = [resolve(place.root, item) for item in place.node["oneOf"]]
    for item in variants:
        if item.get("properties", {}).get("kind", {}).get("const") == tag:
            return item
    wanted = "object" if isinstance(value, dict) else "string"
    return next((item for item in variants if item.get("type") == wanted), place.node)


def _below(node: Schema, part: str | int) -> Schema:
    if isinstance(part, int):
        items = node.get("prefixItems", [])
        found = items[part] if part < len(items) else node.get("items", {})
    else:
        by_pattern: Schema = next(iter(node.get("patternProperties", {}).values()), {})
        found = node.get("properties", {}).get(part, by_pattern)
    return found if isinstance(found, dict) else {}


def _step(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None
