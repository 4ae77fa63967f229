from collections.abc import Iterator

import pytest

from jobs import errors as ledger
from jobs.failures import TITLES
from service import errors as http
from service.problems import STATUS, STATUS_BY_CODE, kinds
from tcaq_core import errors as science

ROOTS = (science.TCAQError, ledger.JobError, http.ServiceError)
# They carry another error, and answer with its status.
CARRIERS = {http.FieldRejected, http.SampleFailed}


def leaves(error: type) -> Iterator[type]:
    # Another test may have made an error of its own.
    subclasses: list[type] = error.__subclasses__()
    children = [c for c in subclasses if not c.__module__.startswith("tests.")]
    for child in children:
        yield from leaves(child)
    if not children:
        yield error


LEAVES = [leaf for root in ROOTS for leaf in leaves(root) if leaf not in CARRIERS]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_leaf_has_a_status(leaf: type) -> None:
    assert leaf in STATUS
    assert 400 <= STATUS[leaf] < 600


def test_the_table_names_nothing_that_does_not_exist() -> None:
    assert set(STATUS) == set(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_leaf_has_a_code_of_its_own(leaf: type) -> None:
    code = leaf.code  # type: ignore[attr-defined] # each root declares it
    assert code != "internal"
    assert [other for other in LEAVES if vars(other).get("code") == code] == [leaf]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_leaf_says_when_it_is_raised(leaf: type) -> None:
    assert leaf.__doc__


def test_every_code_is_documented_to_the_caller() -> None:
    documented = {kind.code for kind in kinds()}
    assert {vars(leaf)["code"] for leaf in LEAVES} <= documented
    assert documented == set(STATUS_BY_CODE)


@pytest.mark.parametrize("code", sorted(TITLES))
def test_every_failure_of_a_job_can_be_answered_to_a_sample(code: str) -> None:
    assert code in STATUS_BY_CODE
