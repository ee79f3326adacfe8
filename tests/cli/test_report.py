"""``edge-grpo report`` and ``edge-grpo compare`` from the command line."""

import re
import threading
import time
from pathlib import Path

import pytest
from made_runs import answer, group, make_run
from support import Command

from edge_grpo.runs.folder import RunFolder


def made(path: Path, right: int, *settings: str) -> Path:
    return make_run(path, {1: group(1, 0, [answer(1)] * right + [answer(0)] * (4 - right))}, *settings)


def test_a_report_is_one_file(command: Command, tmp_path: Path) -> None:
    run = made(tmp_path / "run", 1)
    code, out, err = command("report", str(run), "--out", str(tmp_path / "page.html"))
    assert (code, err) == (0, "")
    assert re.fullmatch(r"wrote .*page\.html \(0\.\d MB\); open it in a browser\n", out)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert 'id="renewal"' not in text
    assert 'http-equiv="refresh"' not in text
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["page.html"]


def test_watching_renews_the_page_until_the_run_ends(command: Command, tmp_path: Path) -> None:
    run, page = make_run(tmp_path / "run", {}), tmp_path / "page.html"
    folder = RunFolder(run)
    folder.lock()
    seen: list[str] = []

    def train() -> None:
        for step in (1, 2):
            time.sleep(0.3)
            folder.write_rollouts(step, group(step, 0, [answer(0), answer(1)]))
            folder.write_metrics({"step": step, "accuracy": 0.5})
            until = time.monotonic() + 60
            while time.monotonic() < until and (
                not page.exists() or f"</span> {step} of 60 steps" not in page.read_text("utf-8")
            ):
                time.sleep(0.05)
            seen.append(page.read_text("utf-8"))
        folder.close()

    other = threading.Thread(target=train)
    other.start()
    code, _, err = command("report", str(run), "--watch", "--every", "1", "--out", str(page))
    other.join()
    assert code == 0
    assert err.count("waiting for the first step") == 1
    assert err.count("follows the run") == 1
    assert all('id="renewal" data-seconds="5"' in text and ">training<" in text for text in seen)
    last = page.read_text("utf-8")
    assert 'id="renewal"' not in last, "the last one stays as it is"
    assert "2 of 60 steps, not finished" in last


def test_runs_are_compared_in_the_terminal(command: Command, tmp_path: Path) -> None:
    words = [str(made(tmp_path / f"{m}-{s}", 1 + s + (m == "gpg"), f"method={m}", f"train.seed={s}"))
             for m in ("grpo", "gpg") for s in (0, 1)]  # fmt: skip
    code, out, err = command("compare", *words)
    assert (code, err) == (0, "")
    assert re.search(r"^A: grpo \(.*grpo-0, .*grpo-1\)$", out, re.MULTILINE)
    plain = " ".join(out.split())
    assert "+25.0 points" in plain
    assert "over pairs of runs with equal seeds" in plain
    code, out, _ = command("compare", words[0], words[2])
    assert "A single pair has no interval" in " ".join(out.split())


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_mistakes_are_one_line(command: Command, tmp_path: Path, verb: str) -> None:
    run = made(tmp_path / "run", 1)
    empty = make_run(tmp_path / "empty", {})
    for words, message in (
        ([str(tmp_path)], "holds no run"),
        ([str(empty)], "has not logged a step yet"),
        ([str(tmp_path / "gone")], "no such folder"),
        ([str(run), f"{run}/"], "the same run twice"),
    ):
        code, _, err = command(verb, *words)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    if verb == "report":
        code, _, err = command(verb, str(run), "--out", str(tmp_path / "gone" / "page.html"))
        assert (code, "no such folder" in err) == (2, True)
        code, _, err = command(verb, str(run), "--out", str(run / "config.yaml"))
        assert (code, "wanted a name that ends in .html" in err) == (2, True)
