"""The page: complete, closed to everything that is in it, and within its size."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from made_runs import answer, group, make_run

from edge_grpo.base.errors import DataError
from edge_grpo.data.pictures import gradient
from edge_grpo.report.page import page
from edge_grpo.report.pictures import pictures_in
from edge_grpo.report.run import read_run

HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=hit()>\u2028\u202egnp.exe javascript:hit()"


@pytest.fixture(name="hostile", scope="module")
def _hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hostile")
    rows = group(1, 0, [answer(0, completion=HOSTILE, note=HOSTILE)] * 2, problem=HOSTILE, prompt=HOSTILE)
    path = make_run(folder / "<b>run&", {1: rows}, data=lambda row: {HOSTILE: HOSTILE})
    return page([read_run(path)])


def test_nothing_in_a_page_is_markup_but_its_own(hostile: str) -> None:
    assert "window.hit" not in hostile.replace("&lt;script&gt;window.hit", "")
    assert "onerror=hit" not in hostile.replace("&lt;img src=x onerror=hit", "")
    assert not re.search(r"<img|<iframe|<link|<object|\son\w+=[\"']", hostile.split("<script>", maxsplit=1)[0])
    assert "[U+202E]gnp.exe" in hostile
    assert "\u202e" not in re.sub(r'="[^"]*"', "", hostile), "but in the name that a button looks for"
    assert "<b>run&" not in hostile
    assert hostile.count("<script") == 2, "the rollouts, and the script that shows them"


def test_the_security_policy_allows_the_script_and_the_styles_alone(hostile: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', hostile)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        own = re.findall(f"<{tag}>(.*?)</{tag}>", hostile, re.DOTALL)
        assert len(own) == 1
        digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["img-src"], rules["base-uri"]) == ("'none'", "data:", "'none'")
    assert "style=" not in hostile
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", hostile)


def test_a_page_stays_below_its_size(tmp_path: Path) -> None:
    text = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(40))
    steps = {
        step: [
            row
            for number in range(8)
            for row in group(step, number, [answer(0, completion=f"{step} {number} {text[number * 64 :]}")] * 2)
        ]
        for step in range(1, 60)
    }
    run = read_run(make_run(tmp_path / "run", steps))
    made = page([run], max_bytes=330_000)
    assert len(made.encode()) <= 330_000
    assert re.search(r"[\d,]+ more are in the run.s folder, but not on this page", made)


def test_always_dead_prompts_are_listed_with_their_texts(tmp_path: Path) -> None:
    steps = {step: group(step, 0, [answer(0)] * 2) + group(step, step, [answer(0), answer(1)]) for step in (1, 2)}
    made = page([read_run(make_run(tmp_path / "run", steps))])
    assert "1 of 3 sampled problems never gave a group with a signal. 1 of them were sampled more than once." in made
    assert re.search(r">p0</button></th><td>2</td>\s*<td>all wrong &times; 2</td>\s*<td>2</td>.*Question 0\?", made)


def test_a_run_without_rollouts_has_charts_only(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0)] * 2)})
    for file in (path / "rollouts").iterdir():
        file.unlink()
    made = page([read_run(path)])
    assert "<svg" in made
    assert "Always-dead" not in made
    assert 'id="rollouts"' not in made


def test_pictures_of_prompts_are_in_the_page_or_missed_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(gradient(400, 300).content)
    data = tmp_path / "d.jsonl"
    rows = ({"problem": f"<image>{number}?", "answer": "1", "images": ["a.png"]} for number in range(3))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    digest = gradient(400, 300).digest
    images = [{"name": "d:1, image 1", "digest": digest, "transform": "", "seed": 0}]
    words = (f"data.path={data}", "eval.size=1")
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0, images=images)] * 2)}, *words)
    find, why = pictures_in(read_run(path))
    (url,) = find({"images": images})
    assert (why, url[:22]) == ("", "data:image/png;base64,")
    assert len(url) < 40_000, "it is scaled down"
    assert list(find({"images": [{**images[0], "digest": "other"}]})) == []
    data.unlink()
    made = page([read_run(path)])
    assert "pictures are not shown: " in made


def test_a_damaged_rollout_file_is_named(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", {1: group(1, 0, [answer(0)] * 2)})
    (path / "rollouts" / "step_000002.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"step_000002\.parquet: cannot be read as parquet"):
        read_run(path)
