"""What several verbs take, and how they print JSON."""

import json
from typing import Annotated

import typer

JobId = Annotated[str, typer.Argument(help="Id of the job, as submit printed it.")]
Target = Annotated[
    str, typer.Argument(help="A job's id, a checkpoint's SHA-256, or a model.")
]
Model = Annotated[str, typer.Argument(help="A model's name, or owner/name@commit.")]
Url = Annotated[str, typer.Option(envvar="TCAQ_URL", help="The service.")]
Json = Annotated[bool, typer.Option("--json", help="Print the service's JSON.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", help="As team=a; may be repeated."),
]
Calibration = Annotated[
    list[str] | None, typer.Option(help="As num_samples=32; may be repeated.")
]
Protocol = Annotated[str, typer.Option(help="As `tcaq protocols` lists it.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Instead of the protocol's; may be repeated."),
]
NumImages = Annotated[
    int | None, typer.Option("--images", min=2, help="Instead of the protocol's.")
]
NumSteps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Instead of the protocol's.")
]
Extractor = Annotated[
    str | None, typer.Option(help="Another feature network than the protocol's.")
]
Reference = Annotated[
    str | None, typer.Option(help="Other reference statistics than the protocol's.")
]


def print_json(document: object) -> None:
    """Print an object as a person reads it."""
    typer.echo(json.dumps(document, indent=2))
