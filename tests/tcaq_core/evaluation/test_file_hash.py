import hashlib
import os
from pathlib import Path

import pytest

from tcaq_core.evaluation.file_hash import sha256_of


def test_it_is_the_hash_of_the_bytes_also_after_they_have_changed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    for time, content in enumerate((b"one", b"two", b"three")):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        assert sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_a_file_of_the_same_name_and_age_is_another(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))
    sha256_of(path)
    other.write_bytes(b"xyz")
    os.utime(other, ns=(1, 1))
    other.replace(path)
    assert sha256_of(path) == hashlib.sha256(b"xyz").hexdigest()


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))
    first = sha256_of(path)
    # Other bytes under the same inode, age and length: only a second reading shows.
    path.write_bytes(b"xyz")
    os.utime(path, ns=(1, 1))
    assert sha256_of(path) == first


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path / "none")
