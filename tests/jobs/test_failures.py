from collections.abc import Iterator

import pytest

from jobs.errors import JobError
from jobs.failures import TITLES, failure
from tcaq_core.errors import TCAQError


def _tree(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


@pytest.mark.parametrize("kind", list(_tree(TCAQError)))
def test_every_refusal_of_the_science_has_a_title(kind: type[TCAQError]) -> None:
    assert kind.code in TITLES


def test_a_failure_is_a_complete_problem() -> None:
    made = failure("diverged", "NaN in block 3.", hint="Lower it.", retryable=False)
    assert made == {
        "code": "diverged",
        "title": "Reconstruction diverged",
        "detail": "NaN in block 3.",
        "hint": "Lower it.",
        "retryable": False,
    }


def test_a_code_outside_the_closed_list_is_refused() -> None:
    with pytest.raises(KeyError):
        failure("surprise", "x", hint="y", retryable=False)


@pytest.mark.parametrize("kind", list(_tree(JobError)))
def test_every_refusal_of_the_ledger_has_a_detail_and_a_hint(
    kind: type[JobError],
) -> None:
    error = kind("what happened", hint="what to do")
    assert (str(error), error.hint) == ("what happened", "what to do")
    assert kind.code
