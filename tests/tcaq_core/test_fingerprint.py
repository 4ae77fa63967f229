from pathlib import Path

from tcaq_core.fingerprint import code_digest, fingerprint_of


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
