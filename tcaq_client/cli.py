"""Quantize diffusion models: talk to the service, or run it (`tcaq up`).

Exit codes: 0 done, 1 the service refused, 2 wrong usage, 3 no connection, 4 the job
failed or was cancelled, 130 interrupted.
"""

from importlib.metadata import entry_points

import typer

from tcaq_client.client import Client
from tcaq_client.mounts import GROUP, mount
from tcaq_client.outcome import EXIT_USAGE
from tcaq_client.verbs import catalog, images, jobs, submission

app = typer.Typer(
    name="tcaq",
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _start(context: typer.Context) -> None:
    # Tests hand in a connection with a transport of their own.
    context.obj = context.obj or Client


def main() -> None:
    """Run the command `tcaq`."""
    app()


for verb in (
    submission.submit,
    submission.score,
    submission.sweep,
    jobs.jobs,
    jobs.watch,
    jobs.cancel,
    jobs.download,
    jobs.pareto,
    images.sample,
    catalog.models,
    catalog.recipes,
    catalog.protocols,
):
    app.command()(verb)
mount(app, entry_points(group=GROUP), missing_exit_code=EXIT_USAGE)


if __name__ == "__main__":
    main()
