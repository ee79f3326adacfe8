"""The runner itself: it must not pass anything it did not check."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden.cases import load, load_folder
from golden.handlers import HANDLERS, check

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a small golden file, any part of which can be replaced."""

    def writer(**changes: Any) -> Path:
        content = {
            "kind": "policy.logprob_and_entropy",
            "hyperparameters": {"temperature": 1.0},
            "inputs": {
                "logits": [[[0.0, 0.0]]],
                "token_ids": [[1]],
                "completion_mask": [[1]],
                "w_logp": [[0.0]],
                "w_ent": [[0.0]],
            },
            "expected": {"entropies": [[math.log(2)]], "_note": "a remark"},
            "tolerance": {"abs": 1e-9, "rel": 0.0},
        }
        path = tmp_path / "vector.json"
        path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
        return path

    return writer


def problems(path: Path) -> list[str]:
    return [problem for case in load(path) for problem in check(case)]


def test_a_good_file_passes(write: Writer) -> None:
    assert problems(write()) == []


def test_an_unknown_kind_fails(write: Writer) -> None:
    assert problems(write(kind="grpo.unheard_of")) == ["no handler for the kind 'grpo.unheard_of'"]


def test_an_unknown_key_fails(write: Writer) -> None:
    assert problems(write(expected={"entropies": [[math.log(2)]], "colour": 1})) == ["expected.colour: not computed"]


def test_a_wrong_number_fails(write: Writer) -> None:
    (problem,) = problems(write(expected={"entropies": [[0.7]]}))
    assert problem.startswith("expected.entropies[0][0]: wanted 0.7")


def test_a_wrong_length_fails(write: Writer) -> None:
    assert problems(write(expected={"entropies": [[0.7, 0.7]]})) == ["expected.entropies[0]: wanted 2 items, got 1"]


def test_an_unknown_hyperparameter_fails(write: Writer) -> None:
    path = write(hyperparameters={"temperature": 1.0, "sharpness": 2.0})
    assert problems(path) == ["hyperparameters.sharpness: unknown to the handler"]


def test_an_unknown_input_fails(write: Writer) -> None:
    case = load(write())[0]
    case.inputs["colour"] = 1
    assert check(case) == ["inputs.colour: unknown to the handler"]


def test_a_missing_hyperparameter_fails(write: Writer) -> None:
    with pytest.raises(KeyError, match=r"hyperparameters\.temperature is needed"):
        problems(write(hyperparameters={}))


def test_tolerances_by_key_reach_into_nested_tables(write: Writer) -> None:
    path = write(expected={"entropies": [[0.7]]}, tolerance_for={"entropies": {"abs": 0.01, "rel": 0.0}})
    assert problems(path) == []


def test_the_relative_tolerance_counts(write: Writer) -> None:
    assert problems(write(expected={"entropies": [[0.7]]}, tolerance={"abs": 0.0, "rel": 0.01})) == []


def test_every_case_of_a_file_is_run_with_its_own_settings(write: Writer) -> None:
    sharp = math.log(1 + math.exp(-2)) + 2 * math.exp(-2) / (1 + math.exp(-2))
    cases = [
        {"hyperparameters": {"temperature": 1.0}, "expected": {"entropies": [[0.5]]}},
        {"hyperparameters": {"temperature": 0.5}, "expected": {"entropies": [[sharp]]}},
    ]
    path = write(cases=cases)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["inputs"]["logits"] = [[[0.0, 1.0]]]
    del content["expected"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert [case.name for case in load(path)] == ["vector-0", "vector-1"]
    (problem,) = problems(path)
    assert "wanted 0.5" in problem


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        (float("nan"), "NaN", True),
        (math.inf, "inf", True),
        (math.inf, "-inf", False),
        (0.0, 0, True),
        (1, 1, True),
        (1, 2, False),
        (1.0 + 1e-3, 1, False),
        (True, True, True),
        (1, True, True),
        (0, True, False),
        ("a", "a", True),
        ("a", "b", False),
        (None, None, True),
        (0.0, None, False),
    ],
)
def test_single_values(write: Writer, got: Any, want: Any, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(kind="test", hyperparameters={}, inputs={}, expected={"value": want})
    monkeypatch.setitem(HANDLERS, "test", lambda case: {"value": got})
    assert (problems(path) == []) is same


def test_a_file_without_expectations_is_an_error(write: Writer) -> None:
    path = write()
    path.write_text('{"kind": "grpo.loss"}', encoding="utf-8")
    with pytest.raises(ValueError, match="neither expected nor cases"):
        load(path)


def test_the_repositorys_vectors_have_only_known_kinds() -> None:
    folder = Path(__file__).parent / "vectors"
    assert {case.kind for case in load_folder(folder)} == set(HANDLERS)
