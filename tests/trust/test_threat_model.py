"""The threat model names tests: every one of them is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_threat_model_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "deploy" / "SECURITY.md").read_text()))
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 30
    assert sorted(named - there) == []


def test_every_threat_has_a_defence_and_a_test() -> None:
    text = (ROOT / "deploy" / "SECURITY.md").read_text().split("## Threats, defences, tests")[1].split("##")[0]
    rows = [row.strip("|").split("|") for row in text.splitlines() if row.startswith("|")][2:]
    assert len(rows) >= 15
    for threat, defence, tests in rows:
        assert defence.strip() and "`test_" in tests, threat
