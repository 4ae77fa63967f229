import pytest

from jobs.status import LEGAL, TERMINAL, JobStatus, is_terminal, sources


def test_every_state_is_in_the_table() -> None:
    assert set(LEGAL) == set(JobStatus)


def test_only_terminal_states_have_no_way_out() -> None:
    assert {status for status in JobStatus if not LEGAL[status]} == TERMINAL


@pytest.mark.parametrize("status", JobStatus)
def test_every_state_can_still_end(status: JobStatus) -> None:
    reached, border = {status}, {status}
    while border:
        border = {after for at in border for after in LEGAL[at]} - reached
        reached |= border
    assert reached & TERMINAL
    assert is_terminal(status) == (reached == {status})


def test_sources_are_the_table_read_backwards() -> None:
    assert sources(JobStatus.RUNNING) == {JobStatus.QUEUED}
    assert sources(JobStatus.CANCELLED) == {JobStatus.QUEUED, JobStatus.CANCELLING}
