"""The search put to use: all studies are run and judged, what is finished is kept, and the table says what came out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tune_arithmetic
import yaml
from tune_arithmetic import ARMS, Searched, gains, measure, seconds, section

from edge_grpo.config.tree import load_config
from edge_grpo.tune.record import Trial
from edge_grpo.tune.space_file import load_space
from edge_grpo.tune.trial import benchmarks_of

PYTHON = sys.executable
STAND_IN = """#!{python}
import json, sys, time
from pathlib import Path
words = sys.argv[1:]
with open("{folder}/calls.txt", "a") as file:
    file.write(" ".join(words) + "\\n")
out = Path(words[words.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
if words[0] == "tune":
    {tune}
    parts = {{"3": 1.0, "4": 0.5, "5": 0.0, "6": 0.5}}
    trial = {{"number": 1, "settings": {{}}, "state": "finished", "parts": parts, "whole": 0.5, "seconds": 3}}
    (out / "trials.jsonl").write_text(json.dumps(trial) + "\\n")
    (out / "best.yaml").write_text("# trial 1, pass@1/greedy: 0.5")
else:
    scores = {{part: {{"scores": {{"pass@1/greedy": {{"value": 0.8}}}}}} for part in "3456"}}
    (out / "results.json").write_text(json.dumps({{"benchmarks": scores}}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a program in the place of edge-grpo, with a line of Python for its studies; tells its calls."""
    monkeypatch.setattr(tune_arithmetic.sys, "executable", str(tmp_path / "python"))

    def put(tune="pass"):
        program = tmp_path / "edge-grpo"
        program.write_text(STAND_IN.format(python=PYTHON, folder=tmp_path, tune=tune))
        program.chmod(0o755)
        return lambda: (tmp_path / "calls.txt").read_text().splitlines()

    return put


def test_every_arm_of_every_repeat_is_searched_and_judged(tmp_path, stand_in):
    calls = stand_in()
    found = measure(tmp_path / "studies", repeats=2, trials=3)
    assert [sorted(repeat) for repeat in found] == [sorted(ARMS)] * 2
    assert found[1]["sum"].fresh == pytest.approx(0.8)
    assert found[1]["sum"].best_after(3) == 0.5
    studies = [line.split() for line in calls() if line.startswith("tune")]
    assert sorted(words[words.index("--decomposed") + 1] for words in studies) == ["false"] * 4 + ["true"] * 4
    judged = [line.split() for line in calls() if line.startswith("eval")]
    assert len(judged) == 8
    assert all(words[words.index("--model") + 1].endswith("/trials/0001/run/final") for words in judged)
    spaces = [load_space(words[1]) for words in studies]
    assert sorted((space.seed, space.scale, space.trials) for space in spaces) == sorted(
        (repeat, scale, 3) for repeat in range(2) for scale in (5, 5, 1, 1)
    )
    assert all(space.settings[-1] == f"train.seed={space.seed}" for space in spaces)
    assert seconds(tmp_path / "studies") > 0
    for path in (tmp_path / "studies").glob("repeat-*/*/trials.jsonl"):  # all three, as a whole study has
        trial = json.loads(path.read_text())
        path.write_text("".join(json.dumps({**trial, "number": n}) + "\n" for n in (1, 2, 3)))
    before = len(calls())
    assert [repeat["sum"].fresh for repeat in measure(tmp_path / "studies", 2, 3)] == [pytest.approx(0.8)] * 2
    assert len(calls()) == before  # nothing is left to do
    with pytest.raises(SystemExit, match="its studies are of another space"):
        measure(tmp_path / "studies", repeats=2, trials=4)


def test_what_is_compared_has_a_name_and_a_sign():
    found = gains(repeats())
    assert found["arithmetic, fresh", 5.0] == pytest.approx([0.1, -0.1])
    assert found["arithmetic, chosen", 1.0] == pytest.approx([0.0, 0.0])


def test_the_judging_problems_were_never_scored_on(tmp_path):
    suite = tune_arithmetic._suite(tmp_path)
    space = load_space(str(tune_arithmetic.SPACE))
    for scored in benchmarks_of(space.objective, load_config(None)):
        path = suite.parent / yaml.safe_load(suite.read_text())["benchmarks"][scored.name]
        fresh = {json.loads(line)["problem"] for line in path.read_text().splitlines()}
        assert len(fresh) == tune_arithmetic.FRESH
        assert not fresh & {problem.prompt for problem in scored.problems}


def test_a_study_that_fails_ends_it_with_its_words(tmp_path, stand_in):
    stand_in("sys.exit(2)")
    with pytest.raises(SystemExit, match=r"edge-grpo tune .*parts\.yaml .*: ended with \[2, 2\]"):
        measure(tmp_path / "studies", repeats=1, trials=3)


def test_stopped_it_ends_its_studies_and_counts_their_time(tmp_path, stand_in):
    stand_in(f"(open('{tmp_path}/pids', 'a').write(str(__import__('os').getpid()) + chr(10)), time.sleep(60))")
    script = f"""
import sys
sys.path.insert(0, {str(Path(tune_arithmetic.__file__).parent)!r})
import tune_arithmetic
tune_arithmetic.sys.executable = {str(tmp_path / "python")!r}
sys.argv = ["tune_arithmetic.py", "--studies", {str(tmp_path / "studies")!r}]
tune_arithmetic.main()
"""
    process = subprocess.Popen([PYTHON, "-c", script])
    pids, deadline = tmp_path / "pids", time.monotonic() + 60
    while time.monotonic() < deadline and not (pids.exists() and len(pids.read_text().splitlines()) == 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert len((tmp_path / "studies" / "seconds.txt").read_text().splitlines()) == 1


def searched(fresh, *wholes):
    trials = tuple(
        Trial(n, {}, "late", seconds=31.0)
        if whole is None
        else Trial(n, {}, "finished", {"3": whole}, whole, seconds=10.0)
        for n, whole in enumerate(wholes, 1)
    )
    return Searched(trials, fresh)


EVEN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def repeats():
    other = (0.1, 0.2, 0.3, 0.4, 0.5, 0.5)
    return [
        {
            "parts": searched(0.7, *EVEN, 0.7, 0.9),
            "sum": searched(0.6, *EVEN, None, 0.7),
            "parts, wide": searched(0.5, *EVEN, 0.7, 0.7),
            "sum, wide": searched(0.5, *EVEN, 0.7, 0.7),
        },
        {
            "parts": searched(0.7, *EVEN, 0.5, 0.7),
            "sum": searched(0.8, *EVEN, 0.5, 0.7),
            "parts, wide": searched(0.5, *EVEN, 0.7, 0.7),
            "sum, wide": searched(0.5, *other, 0.7, 0.7),
        },
    ]


def test_the_tables_say_what_came_out():
    text = "\n".join(section(repeats(), 3000.0))
    lines = text.splitlines()
    assert "ones. 64 trials: 63 finished, 1 late; training and answering took 10 s (median)," in lines
    assert "31 s at most, the start of the process not counted. 50 minutes in all, two" in text
    assert "61 minutes in all (**more than the hour that was wanted**)" in "\n".join(section(repeats(), 3660.0))
    assert "the same scores in 35 of 36 cases" in text
    assert "| 5 | best of 8 | 80.0 % | 70.0 % | +10.0 (-117.1 to +137.1) | 1 | 1 | 0 |" in lines
    assert "| 5 | chosen | 70.0 % | 47.5 % | +22.5 (-263.4 to +308.4) | 1 | 1 | 0 |" in lines
    assert "| 5 | fresh | 70.0 % | 70.0 % | 0.0 (-127.1 to +127.1) | 1 | 0 | 1 |" in lines
    assert "| 1 | fresh | 50.0 % | 50.0 % | 0.0 (0.0 to 0.0) | 0 | 2 | 0 |" in lines
    assert "| 1 | 70.0% | 80.0% | 50.0% | 50.0% |" in lines
