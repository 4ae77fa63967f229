import pytest

from jobs.errors import JobNotFound
from jobs.ids import new_id, parse_id, public_id
from jobs.models import JobKind


def test_ids_sort_by_creation() -> None:
    made = [new_id() for _ in range(100)]
    assert made == sorted(made)
    assert {item.version for item in made} == {7}


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (JobKind.QUANTIZE, "job_"),
        (JobKind.SAMPLE, "sample_"),
        (JobKind.EVALUATE, "job_"),
        (JobKind.SWEEP, "job_"),
    ],
)
def test_a_public_id_is_read_back(kind: JobKind, prefix: str) -> None:
    job_id = new_id()
    text = public_id(kind, job_id)
    assert text == prefix + job_id.hex
    assert parse_id(text) == job_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job_",
        "job_12",
        "job_" + "g" * 32,
        "job_" + "A" * 32,
        "job_" + "\u0661" * 32,
        "job_" + "0" * 32 + "\n",
        "task_" + "0" * 32,
        "../" + "0" * 32,
    ],
)
def test_anything_else_is_no_job(text: str) -> None:
    with pytest.raises(JobNotFound):
        parse_id(text)
