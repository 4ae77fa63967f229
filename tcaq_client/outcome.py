"""How a verb ends: a client's errors become a message and an exit code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import typer

from tcaq_client.client import Client
from tcaq_client.errors import ClientError, ConnectionFailed, JobFailed
from tcaq_client.screen import error_text

EXIT_PROBLEM: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_CONNECTION: Final = 3
EXIT_JOB_FAILED: Final = 4

Connect = Callable[[str], Client]


@contextmanager
def connected(connect: Connect, url: str) -> Iterator[Client]:
    """Yield a client of the service at `url`.

    Raises:
        typer.Exit: a call failed; the reason is on standard error.
    """
    try:
        with connect(url) as client:
            yield client
    except ClientError as error:
        typer.echo(error_text(error), err=True)
        raise typer.Exit(exit_code(error)) from error
    except (OSError, ValueError) as error:
        # Wrong arguments, an occupied folder, a full disk: nobody else's fault.
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error


def exit_code(error: ClientError) -> int:
    """Return the exit code that stands for an error."""
    match error:
        case ConnectionFailed():
            return EXIT_NO_CONNECTION
        case JobFailed():
            return EXIT_JOB_FAILED
        case _:
            return EXIT_PROBLEM
