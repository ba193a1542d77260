"""The documents agree with the code and with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs/adr").glob("*.md"))


def test_the_settings_table_is_the_settings() -> None:
    rows = re.findall(r"^\| `DARE_(\w+)` \| `(.*?)` \| (.*?) \| (.*?) \|$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    expected = []
    for name, field in Settings.model_fields.items():
        bound = {kind: f"{getattr(m, kind):g}" for m in field.metadata for kind in ("ge", "gt", "le") if hasattr(m, kind)}
        bound = {kind: str(int(float(value))) for kind, value in bound.items()}
        low = bound.get("ge") or (f"above {bound['gt']}" if "gt" in bound else "")
        span = f"{low} to {bound['le']}" if "le" in bound else f"{low} or more" if low else ""
        expected.append((name.upper(), str(field.default), span, field.description))
    assert [(name, default, span.strip(), meaning) for name, default, span, meaning in rows] == expected


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name}: {target} does not exist"


def test_decisions_are_numbered_and_short() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    assert len(DECISIONS) >= 6


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_what_hurts_and_what_would_change_it(decision: Path) -> None:
    text = decision.read_text()
    assert text.startswith(f"# {int(decision.name[:4])}. ")
    assert "\nStatus: " in text
    assert text.count("**Unpleasant:**") == 1
    _, _, change = text.partition("## What would change our mind\n")
    assert re.search(r"\d", change), "the number that would change our mind"
    assert len(text.split()) <= 500, "a page at most"


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == 1 or headings[1] == version


def test_the_licence_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
