"""What is typed after a verb, read into what the client takes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def recipe(text: str) -> str | Mapping[str, Any]:
    """Return a recipe's name, or the method object in the file ``….json``.

    Raises:
        ValueError: no such file, or no JSON object in it.
    """
    if not text.endswith(".json"):
        return text
    try:
        return dict(json.loads(Path(text).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{text} holds no recipe object: {error}") from error


def pairs(texts: Sequence[str] | None) -> dict[str, str] | None:
    """Return ``["team=a"]`` as a mapping; None for nothing.

    Raises:
        ValueError: an item without ``=``.
    """
    if not texts:
        return None
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{text!r} is not of the form name=value.")
        found[name] = value
    return found


def numbers(texts: Sequence[str] | None) -> dict[str, float] | None:
    """Return ``["num_samples=32"]`` as numbers; None for nothing.

    Raises:
        ValueError: an item without ``=``, or whose value is no number.
    """
    named = pairs(texts)
    if named is None:
        return None
    return {name: _number(name, value) for name, value in named.items()}


def _number(name: str, text: str) -> float:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    raise ValueError(f"{name} is not a number: {text!r}.")
