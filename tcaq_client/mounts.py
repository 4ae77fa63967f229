"""Verbs that other packages own, found through the entry points `tcaq.commands`.

They need more than HTTP, so nothing of them is imported before one is called: the
client alone stays a small install, and its own verbs start quickly.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from typing import Any, Final

import typer

GROUP: Final = "tcaq.commands"

# The verb's own parser reads everything after its name, --help included.
_PASS_ON: Final[dict[str, Any]] = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "ignore_unknown_options": True,
}


def mount(
    app: typer.Typer, verbs: Iterable[EntryPoint], *, missing_exit_code: int
) -> None:
    """Add verbs to `app`, by name.

    A verb whose package is installed without what it imports says so when called, and
    exits with `missing_exit_code`.
    """
    for entry_point in sorted(verbs, key=lambda e: e.name):
        app.command(
            entry_point.name,
            help=f"See: tcaq {entry_point.name} --help ({entry_point.module}).",
            add_help_option=False,
            context_settings=_PASS_ON,
        )(_verb(entry_point, missing_exit_code))


def _verb(
    entry_point: EntryPoint, missing_exit_code: int
) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        try:
            function = entry_point.load()
        except ModuleNotFoundError as error:
            typer.echo(
                f"error: tcaq {entry_point.name} needs {error.name}.\n"
                "  hint: pip install 'tcaq[service,worker,client]'",
                err=True,
            )
            raise typer.Exit(missing_exit_code) from error
        own = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        own.command(entry_point.name)(function)
        own(context.args, prog_name=f"tcaq {entry_point.name}")

    return run
