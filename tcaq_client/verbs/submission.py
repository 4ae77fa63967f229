"""Verbs that queue a job: submit, score, sweep."""

from typing import Annotated, Literal

import typer

from tcaq_client import arguments
from tcaq_client.client import DEFAULT_URL
from tcaq_client.outcome import connected
from tcaq_client.results import Job
from tcaq_client.sampling import Execution
from tcaq_client.verbs import options


def submit(
    context: typer.Context,
    *,
    model: options.Model,
    weight_bits: Annotated[int, typer.Option("-w", "--weight-bits", help="2 to 8.")],
    activation_bits: Annotated[
        int, typer.Option("-a", "--activation-bits", help="4 to 8, or 16: not at all.")
    ],
    recipe: Annotated[
        str, typer.Option(help="Its name, or a .json file.")
    ] = "standard",
    softmax_bits: Annotated[int | None, typer.Option(help="4 to 8.")] = None,
    calibration: options.Calibration = None,
    label: options.Labels = None,
    export: Annotated[
        list[str] | None, typer.Option(help="A format to write, too: onnx.")
    ] = None,
    evaluate: Annotated[
        str | None, typer.Option(help="Score it, too, by this protocol.")
    ] = None,
    metric: options.Metrics = None,
    guard: Annotated[
        list[str] | None, typer.Option(help="As min_psnr_db=25; may be repeated.")
    ] = None,
    on_violation: Annotated[
        Literal["fail", "raise_bits", "skip_layers"] | None,
        typer.Option(help="What is done where a guard is not kept; default: fail."),
    ] = None,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Queue a quantization and print its id."""
    with connected(context.obj, url) as client:
        job = client.submit(
            model,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            recipe=arguments.recipe(recipe),
            softmax_bits=softmax_bits,
            calibration=arguments.numbers(calibration),
            labels=arguments.pairs(label),
            exports=export,
            evaluation=arguments.evaluation(evaluate, metrics=metric),
            guards=arguments.guards(guard, on_violation=on_violation),
        )
        _show(job, as_json=as_json)


def score(
    context: typer.Context,
    *,
    target: options.Target,
    protocol: options.Protocol = "quick",
    metric: options.Metrics = None,
    images: options.NumImages = None,
    steps: options.NumSteps = None,
    extractor: options.Extractor = None,
    reference: options.Reference = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first image.")] = 0,
    baseline: Annotated[
        bool, typer.Option(help="Score the full-precision model, too.")
    ] = True,
    execution: Annotated[
        Execution, typer.Option(help="Of a checkpoint; auto: on integers if it can.")
    ] = "auto",
    label: options.Labels = None,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Queue an evaluation on the service's workers and print its id."""
    with connected(context.obj, url) as client:
        job = client.evaluate(
            target,
            evaluation=arguments.evaluation(
                protocol,
                metrics=metric,
                num_images=images,
                num_steps=steps,
                extractor=extractor,
                reference=reference,
                seed=seed or None,
                baseline=None if baseline else False,
            ),
            execution=execution,
            labels=arguments.pairs(label),
        )
        _show(job, as_json=as_json)


def sweep(
    context: typer.Context,
    *,
    model: options.Model,
    bits: Annotated[str, typer.Option(help="As W8A8,W4A8; W4A8S6: softmax in 6 bits.")],
    recipes: Annotated[
        str, typer.Option(help="As rtn,standard; names or .json files.")
    ] = "standard",
    protocol: options.Protocol = "quick",
    metric: options.Metrics = None,
    images: options.NumImages = None,
    steps: options.NumSteps = None,
    extractor: options.Extractor = None,
    reference: options.Reference = None,
    calibration: options.Calibration = None,
    label: options.Labels = None,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Queue a quantization and evaluation for each of BITS with each of RECIPES."""
    with connected(context.obj, url) as client:
        job = client.sweep(
            model,
            settings=arguments.bits(bits),
            recipes=[arguments.recipe(name) for name in recipes.split(",")],
            calibration=arguments.numbers(calibration),
            evaluation=arguments.evaluation(
                protocol,
                metrics=metric,
                num_images=images,
                num_steps=steps,
                extractor=extractor,
                reference=reference,
            ),
            labels=arguments.pairs(label),
        )
        _show(job, as_json=as_json)


def _show(job: Job, *, as_json: bool) -> None:
    if as_json:
        options.print_json(job.raw)
    else:
        typer.echo(f"{job.id} {job.status}; follow it with: tcaq watch {job.id}")
