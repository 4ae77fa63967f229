"""What is typed after a verb, read into what the client takes."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_BITS: Final = re.compile(r"W(?P<weight>\d+)A(?P<activation>\d+)(?:S(?P<softmax>\d+))?")


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


def bits(text: str) -> list[dict[str, int]]:
    """Return ``"W8A8,W4A8S6"`` as a sweep's settings; S is for softmax.

    Raises:
        ValueError: an item of another form.
    """
    return [_setting(item.strip()) for item in text.split(",")]


def evaluation(protocol: str | None, **changed: object) -> dict[str, Any] | None:
    """Return a protocol and what is changed of it; None for no protocol.

    What is None or empty is left to the protocol.

    Raises:
        ValueError: something is changed of no protocol.
    """
    said = {name: value for name, value in changed.items() if value not in (None, [])}
    if protocol is None:
        if said:
            raise ValueError(f"{', '.join(said)}: of which protocol? Name one.")
        return None
    return {"protocol": protocol, **said}


def guards(
    texts: Sequence[str] | None, *, on_violation: str | None
) -> dict[str, Any] | None:
    """Return ``["min_psnr_db=25"]`` as guards; None for none.

    Raises:
        ValueError: an item that is no number, or nothing is guarded.
    """
    limits = numbers(texts)
    if on_violation is None:
        return limits
    if limits is None:
        raise ValueError("Nothing is guarded: name a limit, as min_psnr_db=25.")
    return {**limits, "on_violation": on_violation}


def _setting(text: str) -> dict[str, int]:
    match = _BITS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form W4A8 or W4A8S8.")
    found = {name: int(value) for name, value in match.groupdict().items() if value}
    return {f"{name}_bits": value for name, value in found.items()}
