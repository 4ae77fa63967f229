import inspect
from types import ModuleType

import pytest

from jobs import errors as ledger
from jobs.failures import TITLES
from service import errors as http
from service.problems import STATUS, STATUS_BY_CODE, describe, kinds
from tcaq_core import errors as science

# They answer with the status of what they carry.
CARRIERS = {http.FieldRejected, http.SampleFailed}


@pytest.mark.parametrize("module", [science, ledger, http])
def test_every_leaf_of_every_error_tree_has_a_status(module: ModuleType) -> None:
    found = {
        item
        for _, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, Exception) and item.__module__ == module.__name__
    }
    leaves = {item for item in found if not any(sub in found for sub in subs(item))}
    assert leaves
    assert leaves - CARRIERS <= set(STATUS)
    assert not (found - leaves) & set(STATUS)


def test_every_code_that_a_failed_job_can_carry_has_a_status() -> None:
    assert set(TITLES) <= set(STATUS_BY_CODE)


def test_every_code_has_a_kind_and_no_two_errors_share_one() -> None:
    assert {kind.code for kind in kinds()} == set(STATUS_BY_CODE)
    assert len({error.code for error in STATUS}) == len(STATUS)
    assert all(kind.title and kind.meaning for kind in kinds())


def test_members_that_say_nothing_are_left_out() -> None:
    problem = describe("not_found", detail="No.", instance="/x")
    assert "errors" not in problem.model_dump(exclude_none=True)


def subs(error: type[Exception]) -> list[type[Exception]]:
    """Return the direct subclasses of an error."""
    return error.__subclasses__()
