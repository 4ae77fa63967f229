from pathlib import Path

import torch

from tcaq_core.fingerprint import code_digest, environment_digest, fingerprint_of


def test_the_fingerprint_tells_everything_apart_that_decides_bytes(
    tmp_path: Path,
) -> None:
    config = tmp_path / "scheduler_config.json"
    config.write_text("{}")

    def fingerprint(**change: object) -> str:
        parts: dict[str, object] = {
            "weights_sha256": "w",
            "recipe_digest": "r",
            "environment": {"torch": "2", "threads": 1},
            "files": {"scheduler": config},
        }
        return fingerprint_of(**(parts | change))  # type: ignore[arg-type]

    first = fingerprint()
    others = [
        fingerprint(weights_sha256="v"),
        fingerprint(recipe_digest="s"),
        fingerprint(environment={"torch": "2", "threads": 2}),
    ]
    config.write_text('{"a": 1}')
    others.append(fingerprint())
    assert len({first, *others}) == 5
    config.write_text("{}")
    assert fingerprint() == first
    assert len(code_digest()) == 64


def test_the_environment_digest_tells_threads_apart() -> None:
    cpu = torch.device("cpu")
    threads = torch.get_num_threads()
    first = environment_digest(cpu)
    try:
        torch.set_num_threads(threads + 1)
        other = environment_digest(cpu)
    finally:
        torch.set_num_threads(threads)
    assert first != other
    assert environment_digest(cpu) == first
    assert len(first) == 64
