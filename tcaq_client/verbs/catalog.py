"""Verbs that list what the service offers: models, recipes, protocols."""

import typer

from tcaq_client import screen
from tcaq_client.client import DEFAULT_URL
from tcaq_client.outcome import connected
from tcaq_client.score_screen import protocols_table
from tcaq_client.verbs import options


def models(
    context: typer.Context,
    *,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """List the models that the service has."""
    with connected(context.obj, url) as client:
        found = client.models()
        if as_json:
            options.print_json([model.raw for model in found])
        else:
            screen.console().print(screen.models_table(found))


def recipes(
    context: typer.Context,
    *,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """List the recipes that have a name."""
    with connected(context.obj, url) as client:
        found = client.recipes()
        if as_json:
            options.print_json([preset.raw for preset in found])
        else:
            screen.console().print(screen.presets_table(found))


def protocols(
    context: typer.Context,
    *,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """List the evaluation protocols, and whether the service can follow them."""
    with connected(context.obj, url) as client:
        found = client.protocols()
        if as_json:
            options.print_json([protocol.raw for protocol in found])
        else:
            screen.console().print(protocols_table(found))
