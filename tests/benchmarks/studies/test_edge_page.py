"""A page whose every number comes from the runs."""

from pathlib import Path

from benchmarks.made_up import make_comparison
from compare_edge import ARMS
from studies.edge_page import write_page


def make_page(tmp_path: Path, edge_right: int = 18) -> str:
    out = tmp_path / "deep/page.md"
    write_page(
        out, make_comparison(ARMS, lambda name: edge_right if name.startswith("edge") else 10), ["train.steps=24"]
    )
    return out.read_text()


def test_the_page_reports_the_findings(tmp_path: Path) -> None:
    page = make_page(tmp_path)
    assert "`benchmarks/compare_edge.py train.steps=24`" in page
    assert "| EDGE-GRPO | 0.0001 | 90.0% (90.0% - 90.0%) | 50.0% | 5.0% |" in page
    assert "| base model, untrained | - | 5.0% |" in page
    assert "| edge - grpo | +40.0 |" in page
    assert "better" in page
    assert "| EDGE is more accurate than GRPO | yes |" in page
    assert "| EDA adds accuracy to correction alone | yes |" in page


def test_a_claim_that_does_not_hold_is_reported_too(tmp_path: Path) -> None:
    page = make_page(tmp_path, edge_right=10)
    assert "| EDGE is more accurate than GRPO | no | +0.0 points" in page
    assert "no difference shown" in page
