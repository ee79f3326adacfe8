"""docs/reliability.md names tests that exist, and lists every fault test in this folder."""

import re
from pathlib import Path

from small_runs import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
HERE = Path(__file__).parent


def names_of(path: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M))


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    assert [pair for pair in named if pair[1] not in names_of(ROOT / pair[0])] == []


def test_every_silent_fault_has_a_test() -> None:
    section = PAGE.partition("## Silent faults")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0].strip() != "kind"]
    assert len(rows) > 70
    assert [row for row in rows if len(row) != 4 or not re.fullmatch(r"( `tests/[\w/]+\.py::\w+`,?)+ ", row[3])] == []


def test_every_fault_test_is_listed_on_the_page() -> None:
    for name in ("kill", "signals", "disk_full", "numbers", "inputs", "ranks"):
        missing = {test for test in names_of(HERE / f"test_{name}.py") if test not in PAGE}
        allowed = {
            "test_killed_in_a_phase_and_resumed",
            "test_a_second_signal_while_the_checkpoint_of_the_first_is_written",
        }
        assert missing <= allowed, f"{name}: {missing - allowed}"
