"""The shared command line: options, errors in one line, exit codes."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import compare_edge
import compare_methods
import pytest
from studies.command import Options, run_study

from edge_grpo.base.errors import ConfigError

DEFAULTS = Options(out="page.md", folder="runs/x", seeds=5)


def asked(*words: str) -> Options:
    """The options parsed from these words."""
    found = []
    run_study(lambda options, _: found.append(options), DEFAULTS, "A study.", words)
    return found[0]


def test_settings_and_options_may_alternate(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked() == DEFAULTS
    given = asked("train.steps=3", "--seeds", "2", "--jobs", "1", "a=b", "--out", "o.md", "--dir", "d")
    assert given == Options(out="o.md", folder="d", seeds=2, jobs=1, overrides=("train.steps=3", "a=b"))
    assert "wrote o.md after 0.0 minutes" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--seeds", "0"), ("--jobs", "x"), ("--nope",)])
def test_a_wrong_option_ends_with_2(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as end:
        asked(*words)
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("study", "defaults"),
    [(compare_edge.compare, compare_edge.DEFAULTS), (compare_methods.compare_methods, compare_methods.DEFAULTS)],
)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.stepz=1", "train.stepz: no such setting"),
        ("data.path=good.jsonl", "data.eval_path: a comparison needs held-out problems in a separate file"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    study: Callable[..., object],
    defaults: Options,
    setting: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text('{"problem": "a", "answer": "1"}\n')
    with pytest.raises(SystemExit) as end:
        run_study(study, defaults, "A study.", [setting])
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_other_errors_and_signals_have_their_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def failing(error: BaseException) -> Callable[..., NoReturn]:
        def study(*_: object) -> NoReturn:
            raise error

        return study

    def terminated(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    found = []
    for study in (failing(ConfigError("x: y")), failing(OSError("disk")), failing(KeyboardInterrupt()), terminated):
        with pytest.raises(SystemExit) as end:
            run_study(study, DEFAULTS, "A study.", [])
        found.append(end.value.code)
    assert found == [2, 2, 130, 143]
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["x: y", "disk"]
