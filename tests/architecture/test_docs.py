import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import Settings
from service.schemas.submission import JobCreate
from tcaq_core.evaluation.protocols import PROTOCOLS
from tcaq_core.evaluation.record import ScoreRecord

ROOT = Path(__file__).parents[2]
OPERATING = ROOT / "docs" / "operating.md"
ROW = re.compile(r"^\| `TCAQ_(?P<name>\w+)` \| (?P<default>.*?) \|", re.MULTILINE)
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "models").rglob("*.md"),
    *(ROOT / "evaluation").rglob("*.md"),
]


def documented() -> dict[str, str]:
    text = OPERATING.read_text(encoding="utf-8")
    return {match["name"].lower(): match["default"] for match in ROW.finditer(text)}


def test_every_setting_is_documented_and_no_other() -> None:
    assert set(documented()) == set(Settings.model_fields)


@pytest.mark.parametrize("name", sorted(documented()))
def test_the_documented_default_is_the_default(name: str) -> None:
    default: Any = Settings.model_fields[name].default
    match default:
        case None:
            assert "data directory" in documented()[name]
        case Path() if default.is_absolute():
            assert documented()[name].startswith(f"`{default.name}`")
        case bool():
            assert documented()[name] == f"`{default}`".lower()
        case _:
            assert documented()[name] == f"`{default}`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_decisions_are_numbered_without_gaps_and_follow_the_template() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    for number, path in enumerate(files, start=1):
        text = path.read_text(encoding="utf-8")
        assert path.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
            "Alternatives",
        ]


def test_every_json_block_about_scores_is_what_the_service_takes_or_gives() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    kinds = set()
    for block in map(json.loads, blocks):
        if "metric" in block:
            ScoreRecord.model_validate(block)
        else:
            JobCreate.model_validate(block)
        kinds.add(block.get("kind", "record" if "metric" in block else "quantize"))
    assert kinds == {"record", "quantize", "evaluate", "sweep"}


def test_every_protocol_is_in_the_table() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([0-9,]+) \|", text, re.MULTILINE))
    expected = {name: f"{one.num_images:,}" for name, one in PROTOCOLS.items()}
    assert rows == expected
