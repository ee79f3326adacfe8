"""The report in a real browser: Chromium, driven by Playwright. `make test-browser` installs both."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from made_runs import answer, group, make_run
from tokenizers import Tokenizer

from edge_grpo.report.page import page
from edge_grpo.report.run import read_run

pytestmark = pytest.mark.browser

HOSTILE = [
    "</script><script>window.hit=1</script>",
    "<img src=x onerror='window.hit=1'>",
    "[x](javascript:window.hit=1) javascript:window.hit=1",
    "line\u2028separator\u2029 and \x1b[2J",
    "a\u202egnp.exe\u2066b",
    "<svg onload=window.hit=1>&lt;b&gt;",
    "x" * 200_000,
]


TOKENS = "=12+30-4=38 Wait! No."


def spans(text: str) -> list[dict[str, Any]]:
    """Tokens of the bundled model for the halves of a text, from hardly any entropy to a lot."""
    tokenizer = Tokenizer.from_file(str(files("edge_grpo") / "bundled/base_model/tokenizer.json"))
    half = len(text) // 2
    ids = [tokenizer.encode(part, add_special_tokens=False).ids for part in (text[:half], text[half:])]
    entropies = [0.0, 0.02, 0.07, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0] * len(text)
    own = {"logprobs": [], "version": None}
    return [
        {**own, "origin": "wrong_prefix", "token_ids": ids[0], "entropies": entropies[: len(ids[0])]},
        {**own, "origin": "injected", "token_ids": ids[1], "entropies": []},
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    span = {"origin": "sampled", "token_ids": [], "logprobs": [], "entropies": [], "version": None}
    told = {"completion": TOKENS, "spans": spans(TOKENS)}
    steps = {
        step: [
            *group(step, 0, [answer(0), answer(1, before=0, strategy="answer", completion_before="was wrong")]),
            *group(step, 1, [answer(0), answer(1, note="fine", **told)], prompt=f"Mixed {step}?"),
            *group(step, 2, [answer(0, completion=text, spans=[span]) for text in HOSTILE], prompt=HOSTILE[0]),
        ]
        for step in (1, 2, 3)
    }
    path = make_run(folder / "run <i>1", steps, data=lambda row: {"level": int(row["problem"][1:]), "by": HOSTILE[1]})
    file = folder / "report.html"
    file.write_text(page([read_run(path)]), encoding="utf-8")
    return file


@pytest.fixture
def opened(chromium: Any, report: Path) -> Iterator[Any]:
    """The page; anything on the console, any request, and any alert fails the test."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    trouble: list[str] = []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("request", lambda request: trouble.append(request.url) if not request.url.startswith("file:") else None)
    tab.on("dialog", lambda dialog: trouble.append(dialog.message))
    tab.goto(report.as_uri())
    tab.wait_for_selector("#groups button")
    yield tab
    assert tab.evaluate("window.hit") is None
    assert trouble == []
    context.close()


def count(tab: Any) -> str:
    return str(tab.inner_text("#count"))


def test_a_group_is_shown_with_its_completions(opened: Any) -> None:
    assert count(opened) == "9 of 9 groups"
    opened.click("#groups button >> nth=0")
    assert opened.inner_text("#group h3") == "Step 1, group 0"
    facts = opened.inner_text("#group")
    for told in ("p0", "as sampled all wrong", "after corrections useful", "level 0", "Question 0?", "was wrong"):
        assert told in facts
    assert opened.locator("#group article").count() == 2
    assert "0 → 1" in opened.locator("#group article").nth(1).inner_text()
    assert opened.evaluate("document.activeElement.id") == "group", "the keyboard is where the group is"


def test_tokens_are_coloured_by_origin_and_shaded_by_entropy(opened: Any) -> None:
    opened.click("#groups button >> nth=1")
    box = opened.locator("#group article .text").nth(1)
    kept, injected = box.locator("> .wrong_prefix"), box.locator("> .injected")
    assert (
        kept.text_content() + injected.text_content()
    ) == "[kept from the wrong answer:] =12+30-4=3[injected:] 8 Wait! No."
    shades = kept.locator("> span:not(.hidden)")
    assert [shades.nth(index).get_attribute("class") for index in range(5)] == [None, "e1", "e2", "e3", "e4"]
    assert shades.nth(9).get_attribute("title") == "entropy 2.5 nats or more"
    assert injected.locator("> [title]").count() == 0
    colors = {
        opened.evaluate("one => getComputedStyle(one).backgroundColor", shades.nth(n).element_handle())
        for n in range(10)
    }
    assert len(colors) == 10


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("kind", "dead", "6 of 9 groups"),
        ("kind", "revived", "3 of 9 groups"),
        ("kind", "useful", "3 of 9 groups"),
        ("step", "2", "3 of 9 groups"),
        ("kind", "dropped", "0 of 9 groups"),
        ("verdict", "correct", "6 of 9 groups"),
        ("strategy", "any", "3 of 9 groups"),
        ("problem", "p1", "3 of 9 groups"),
        ("text", "FINE", "3 of 9 groups"),
        ("text", "nowhere", "0 of 9 groups"),
        ("text", "Mixed 2", "1 of 9 groups"),
        ("value", "2", "3 of 9 groups"),
    ],
)
def test_filters(opened: Any, field: str, value: str, expected: str) -> None:
    place = f"#filters [name={field}]"
    if opened.evaluate(f"document.querySelector('{place}').tagName") == "SELECT":
        opened.select_option(place, value)
    else:
        opened.fill(place, value)
    opened.wait_for_function("text => document.getElementById('count').innerText === text", arg=expected)
    opened.click("#filters button[type=reset]")
    opened.wait_for_function("document.getElementById('count').innerText === '9 of 9 groups'")


def test_a_column_of_the_data_is_searched_by_name(opened: Any) -> None:
    opened.select_option("#filters [name=column]", "by")
    opened.fill("#filters [name=value]", "2")
    assert count(opened) == "0 of 9 groups"
    opened.select_option("#filters [name=column]", "level")
    assert count(opened) == "3 of 9 groups"


def test_what_is_chosen_survives_a_reload(opened: Any) -> None:
    opened.select_option("#filters [name=kind]", "dead")
    opened.click("#groups button >> nth=3")
    chosen = opened.inner_text("#group h3")
    opened.reload()
    opened.wait_for_selector("#groups button")
    assert (count(opened), opened.inner_text("#group h3")) == ("6 of 9 groups", chosen)


def test_a_page_that_follows_a_run_keeps_what_is_chosen_and_can_be_paused(chromium: Any, report: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    run = next(path for path in report.parent.iterdir() if path.is_dir())
    live = report.with_name("live.html")
    live.write_text(page([read_run(run)], renew_s=1), encoding="utf-8")
    tab = chromium.new_page()
    tab.goto(live.as_uri())
    tab.wait_for_selector("#groups button")
    tab.select_option("#filters [name=kind]", "dead")
    tab.fill("#filters [name=text]", "it")
    tab.click("details summary >> nth=0")
    with tab.expect_navigation():
        tab.evaluate("document.activeElement.blur()")
    tab.wait_for_selector("#groups button")
    assert tab.input_value("#filters [name=kind]") == "dead"
    assert tab.input_value("#filters [name=text]") == "it"
    assert tab.evaluate("document.querySelector('details').open")
    tab.click("#renewal button")
    tab.evaluate("window.old = true; document.activeElement.blur()")
    tab.wait_for_timeout(2500)
    assert tab.evaluate("window.old"), "it is not loaded again"
    serious = [one["id"] for one in Axe().run(tab).response["violations"] if one["impact"] in ("serious", "critical")]
    assert serious == []
    tab.close()


def test_hostile_completions_are_shown_as_text(opened: Any) -> None:
    opened.fill("#filters [name=problem]", "p2")
    opened.click("#groups button >> nth=0")
    texts = opened.locator("#group article .text").all_text_contents()
    assert texts[:3] == HOSTILE[:3]
    assert "lineU+2028separatorU+2029 and U+001B[2J" in texts[3]
    assert "aU+202Egnp.exeU+2066b" in texts[4]
    assert texts[5:] == HOSTILE[5:]
    assert opened.locator("#group :is(script, img, svg, a, iframe)").count() == 0
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "long lines are wrapped"


def test_injected_markup_would_be_stopped_by_the_policy(chromium: Any, report: Path) -> None:
    tab = chromium.new_page()
    refused: list[str] = []
    tab.on("console", lambda message: refused.append(message.text))
    tab.goto(report.as_uri())
    tab.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:9/x onerror=window.hit=1>"
        '<a id=bad href="javascript:window.hit=1">x</a><div style=color:red></div>\')'
    )
    tab.evaluate("const s = document.createElement('script'); s.textContent = 'window.hit=1'; document.body.append(s)")
    tab.click("#bad")
    tab.wait_for_timeout(200)
    assert tab.evaluate("window.hit") is None
    assert len([line for line in refused if "Content Security Policy" in line]) >= 4
    tab.close()


def test_a_dead_prompt_leads_to_its_groups(opened: Any) -> None:
    opened.click("button[data-problem=p2]")
    opened.wait_for_function("document.getElementById('count').innerText === '3 of 9 groups'")
    assert "p2" in opened.inner_text("#group")


def test_the_keyboard_alone_suffices(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    opened.focus("#groups button >> nth=1")
    opened.keyboard.press("Enter")
    opened.wait_for_function("document.querySelector('#group h3').innerText === 'Step 1, group 1'")
    opened.focus("#filters [name=kind]")
    opened.keyboard.type("useful")
    opened.wait_for_function("document.getElementById('count').innerText === '3 of 9 groups'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing_serious_and_nothing_overflows(chromium: Any, report: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.goto(report.as_uri())
    tab.wait_for_selector("#groups button")
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.click("#groups button >> nth=1")
    found = Axe().run(tab).response["violations"]
    serious = [
        (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
