"""The command for all benchmarks: every key is there, whatever runs, fails or is not asked for."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import bench
import pytest
from measuring import Figures

ROOT = Path(__file__).resolve().parents[2]
ASKED = {
    *("trl_step_ratio", "trl_step_ratio_long", "trl_step_ratio_135m", "decode_135m", "update_135m"),
    *("eda_overhead", "gec_overhead", "logits_memory", "growth", "startup"),
}


def keys() -> set[str]:
    return {key for own in bench.BENCHMARKS.values() for key in own}


def test_all_figures_have_a_key_of_their_own() -> None:
    assert keys() >= ASKED
    assert len(keys()) == sum(map(len, bench.BENCHMARKS.values()))


@pytest.mark.parametrize("name", bench.BENCHMARKS)
def test_a_benchmark_measures_what_the_command_lists(name: str) -> None:
    module = import_module(name)
    own = module.KEYS if name != "trl_step" else tuple(case.key for case in module.CASES.values())
    assert own == bench.BENCHMARKS[name]
    assert callable(module.measure)


def test_what_is_unavailable_or_fails_leaves_nulls_and_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    def start(name: str, *, quick: bool) -> Figures | str:
        assert quick
        match name:
            case "decode":
                return "no such peer"
            case "update":
                raise RuntimeError("out of luck")
            case "growth":
                return {"growth": 1.0}  # lacks a key
        return dict.fromkeys(bench.BENCHMARKS[name], 2.0)

    figures, failed = bench.collect(["decode", "update", "growth", "startup"], quick=True, start=start)
    assert set(figures) == keys()
    assert failed == ["update", "growth"]
    assert {key for key, value in figures.items() if value is not None} == set(bench.BENCHMARKS["startup"])
    shown = capsys.readouterr().out
    assert "decode: cannot run here: no such peer" in shown
    assert "update: failed (RuntimeError: out of luck)" in shown
    assert "growth: failed" in shown


def test_the_page_describes_every_figure() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert sorted(key for key in keys() if f"`{key}`" not in page) == []


def test_an_unknown_name_is_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/bench.py"), "decod"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no benchmark is called 'decod'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_last_line_is_json(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/bench.py"), "startup", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == keys()
    assert figures["startup_s"] > 0
    assert figures["growth"] is None
