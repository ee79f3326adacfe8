"""The page of a diagnosis in a real browser."""

from pathlib import Path
from typing import Any

import pytest
from report.test_diagnosis import Rewards, made

from edge_grpo.report.diagnosis_page import write_page
from edge_grpo.report.remedies import remedies

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds: list[Rewards] = [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.001, 0.0], [1.0, None]]
    found = made([(step, "long " * 50 + str(kind), own) for step in range(9) for kind, own in enumerate(kinds)])
    file = tmp_path_factory.mktemp("diagnosis") / "page.html"
    write_page(file, found, found.spans, remedies(found), title="a run", prompts=10)
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing_serious_and_nothing_overflows(
    chromium: Any, diagnosis: Path, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.goto(diagnosis.as_uri())
    found = Axe().run(tab).response["violations"]
    serious = [
        (one["id"], [node["html"][:200] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_wide_tables_are_scrolled_with_the_keyboard(chromium: Any, diagnosis: Path) -> None:
    tab = chromium.new_page(bypass_csp=True, viewport={"width": 360, "height": 800})  # to wait by a script
    tab.goto(diagnosis.as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.ariaLabel") == "Groups by kind"
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.activeElement.scrollLeft > 0")
    tab.close()
