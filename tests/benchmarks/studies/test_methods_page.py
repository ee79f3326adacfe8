"""The page of all methods."""

from pathlib import Path

from benchmarks.made_up import make_comparison
from compare_methods import ARMS
from studies.methods_page import write_page


def test_the_page_of_all_methods_names_those_that_did_not_learn(tmp_path: Path) -> None:
    out = tmp_path / "methods.md"
    write_page(out, make_comparison(ARMS, lambda name: 1 if name == "gpg" else 12), [], baseline="grpo")
    page = out.read_text()
    assert "| `grpo` | 0.0001 | 60.0% (60.0% - 60.0%) | - |" in page
    assert "| `gpg` | 0.0001 | 5.0% (5.0% - 5.0%) | -55.0 (" in page
    told = page[page.index("## Not above") : page.index("## Choice")]
    assert "`gpg`: 5.0%" in told
    assert told.count("- `") == 1
    write_page(out, make_comparison(ARMS, lambda _: 12), [], baseline="grpo")
    assert "None: every method's interval" in out.read_text()
