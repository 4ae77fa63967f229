"""The verb that draws: sample."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tcaq_client import screen
from tcaq_client.client import DEFAULT_URL
from tcaq_client.outcome import connected
from tcaq_client.sampling import Execution
from tcaq_client.verbs import options
from tcaq_client.verbs.files import write


def sample(
    context: typer.Context,
    *,
    target: options.Target,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the first image.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 50,
    eta: Annotated[float, typer.Option(min=0, max=1, help="DDIM's eta.")] = 0.0,
    compare_to: Annotated[
        Literal["baseline"] | None,
        typer.Option(help="Draw the full-precision images above, from the same noise."),
    ] = None,
    execution: Annotated[
        Execution, typer.Option(help="Of a checkpoint; auto: on integers if it can.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="The PNG file.")] = Path("samples.png"),
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Draw images and save them in one picture."""
    with connected(context.obj, url) as client:
        drawn = client.sample(
            target,
            n=n,
            seed=seed,
            steps=steps,
            eta=eta,
            compare_to=compare_to,
            execution=execution,
        )
        write(out, client.image(drawn.grid))
        if as_json:
            options.print_json(drawn.raw)
            return
        typer.echo(f"{out}: {screen.sample_text(drawn)}")
