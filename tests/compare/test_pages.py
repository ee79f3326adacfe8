"""Statistics of the comparison by hand, and a page whose every number comes from the runs."""

import json
import math

import pytest

from edge_grpo.compare.edge import ARMS
from edge_grpo.compare.edge_page import write_page
from edge_grpo.compare.methods import ARMS as METHOD_ARMS
from edge_grpo.compare.methods_page import write_page as write_methods_page
from edge_grpo.compare.runs import RATES, Measured, Study, paired_difference, t_interval
from edge_grpo.config import load_config


def measured(arm, seed, right, total=20, rate=1e-4, **figures):
    flags = tuple(i < right for i in range(total))
    held = {
        "validation": [True, False],
        "test": list(flags),
        "collapse/before": 0.5,
        "collapse/after": 0.05,
        "advantage/variance_before": 0.9,
        "advantage/variance": 1.1,
        "late/entropy": 0.2,
        "extra_completions": 0.0,
        "seconds": 12.0,
        **figures,
    }
    return Measured(arm, rate, seed, flags, 0.5 if rate == 1e-4 else 0.4, held)


def test_t_interval_by_hand():
    mean, low, high = t_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    half = 2.776 * math.sqrt(0.025) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert math.isnan(t_interval([0.5])[1])


def test_a_paired_difference_sees_through_common_noise():
    one = [measured("a", seed, right) for seed, right in enumerate([12, 15, 9])]
    two = [measured("b", seed, right) for seed, right in enumerate([10, 13, 7])]
    (mean, low, high), (least, most) = paired_difference(one, two)
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    assert 0 <= least <= 0.1 <= most
    (_, low, high), _ = paired_difference(one, one)
    assert low == high == 0


def make_study(arms, right):
    """Three seeds an arm at the lowest rate, and one run at each of the others; ``right`` answers an arm."""
    runs = {}
    for arm in arms:
        same = {"collapse/after": 0.5} if arm.name in ("eda", "grpo") else {}
        runs[arm.name] = tuple(measured(arm.name, seed, right(arm.name), **same) for seed in range(3))
    others = [measured(arm.name, 0, 9, rate=rate) for arm in arms for rate in RATES if rate != 1e-4]
    base = Measured("base", 0.0, 0, (True,) + (False,) * 19, 0.1, {"validation": [True], "test": []})
    every = (*(run for own in runs.values() for run in own), *others)
    return Study(arms, runs, every, {arm.name: 1e-4 for arm in arms}, base, load_config(), ())


def make_page(tmp_path, edge_right=18):
    out = tmp_path / "deep/page.md"
    write_page(out, make_study(ARMS, lambda name: edge_right if name.startswith("edge") else 10), ["train.steps=24"])
    return out.read_text()


def test_the_page_tells_what_came_out(tmp_path):
    page = make_page(tmp_path)
    assert "edge-grpo compare train.steps=24" in page
    assert "| EDGE-GRPO | 0.0001 | 90.0% (90.0% - 90.0%) | 50.0% | 5.0% |" in page
    assert "| base model, untrained | - | 5.0% |" in page
    assert "| edge - grpo | +40.0 |" in page
    assert "better" in page
    assert "| EDGE is more accurate than GRPO | yes |" in page
    assert "| EDA adds accuracy to correction alone | yes |" in page


def test_a_claim_that_does_not_hold_is_told_too(tmp_path):
    page = make_page(tmp_path, edge_right=10)
    assert "| EDGE is more accurate than GRPO | no | +0.0 points" in page
    assert "no difference shown" in page


def test_a_result_file_is_read_back(tmp_path):
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"validation": [True, False], "test": [True, True, False, False]}))
    read = Measured.read(file, arm="x", rate=0.1, seed=3)
    assert (read.accuracy, read.validation, read.seed) == (0.5, 0.5, 3)


def test_the_page_of_all_methods_names_those_that_did_not_learn(tmp_path):
    out = tmp_path / "methods.md"
    write_methods_page(out, make_study(METHOD_ARMS, lambda name: 1 if name == "gpg" else 12), [])
    page = out.read_text()
    assert "| `grpo` | 0.0001 | 60.0% (60.0% - 60.0%) | - |" in page
    assert "| `gpg` | 0.0001 | 5.0% (5.0% - 5.0%) | -55.0 (" in page
    told = page[page.index("## Not above") : page.index("## Choice")]
    assert "`gpg`: 5.0%" in told
    assert told.count("- `") == 1
    write_methods_page(out, make_study(METHOD_ARMS, lambda _: 12), [])
    assert "None: the interval" in out.read_text()
