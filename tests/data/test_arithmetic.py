import random
import re

import pytest
from pydantic import ValidationError

from edge_grpo.base.errors import ConfigError
from edge_grpo.data import arithmetic
from edge_grpo.data.arithmetic import ArithmeticSettings, held_out, problems, solution

SMALL = ArithmeticSettings(operands={2: 1.0, 3: 1.0, 4: 1.0})


def test_every_line_of_a_solution_has_the_value_of_the_expression() -> None:
    for problem in problems(ArithmeticSettings(), count=300):
        value = eval(problem.meta["expression"])
        assert problem.answers == (str(value),)
        *lines, boxed = problem.solution.split("\n")
        assert boxed == f"\\boxed{{{value}}}"
        assert [eval(line[1:]) for line in lines] == [value] * len(lines)
        assert len(lines) == problem.meta["num_operands"] - 1
        assert all(abs(int(number)) <= 30 for line in lines for number in re.findall(r"\d+", line))


def test_the_same_settings_give_the_same_problems_and_another_seed_gives_others() -> None:
    assert problems(SMALL, count=50) == problems(SMALL, count=80)[:50]
    other = problems(ArithmeticSettings(operands=SMALL.operands, seed=1), count=50)
    assert [each.prompt for each in other] != [each.prompt for each in problems(SMALL, count=50)]


def test_train_and_held_out_never_share_an_expression() -> None:
    train = problems(SMALL, count=400)
    test = problems(SMALL, count=200, on_held_out=True)
    assert not any(held_out(each.meta["expression"]) for each in train)
    assert all(held_out(each.meta["expression"]) for each in test)
    assert not {each.prompt for each in train} & {each.prompt for each in test}
    assert not {each.id for each in train} & {each.id for each in test}


def test_problems_do_not_repeat() -> None:
    made = problems(SMALL, count=500)
    assert len({each.prompt for each in made}) == len({each.id for each in made}) == 500


def test_the_mix_follows_its_weights() -> None:
    mix = ArithmeticSettings(operands={3: 1.0, 5: 3.0})
    counts = [each.meta["num_operands"] for each in problems(mix, count=400)]
    assert set(counts) == {3, 5}
    assert 0.65 < counts.count(5) / 400 < 0.85


def test_paraphrases_ask_for_the_same_expression() -> None:
    problem = problems(SMALL, count=1)[0]
    asked = (problem.prompt, *problem.variants)
    assert len(set(asked)) == 3
    assert all(problem.meta["expression"] in each for each in asked)


def test_negative_results_are_carried_forward() -> None:
    assert solution("2-9*2+1") == "=2-18+1\n=-16+1\n=-15\n\\boxed{-15}"


def test_a_pool_that_runs_dry_is_reported() -> None:
    tiny = ArithmeticSettings(operands={2: 1.0}, max_operand=2)
    with pytest.raises(ConfigError, match=r"only \d+ distinct train expressions found, 100 wanted"):
        problems(tiny, count=100)


def test_settings_that_no_expression_fits_are_reported() -> None:
    with pytest.raises(ConfigError, match=r"no expression with .* operands keeps all results within"):
        arithmetic.draw_expression(random.Random(0), ArithmeticSettings(operands={60: 1.0}, max_value=4))


@pytest.mark.parametrize("operands", [{1: 1.0}, {3: -1.0}, {3: 0.0}, {}, {2: 1e308, 3: 1e308}])
def test_impossible_mixes_are_rejected(operands: dict[int, float]) -> None:
    with pytest.raises(ValidationError):
        ArithmeticSettings(operands=operands)


def test_fewer_held_out_problems_are_a_subset_of_more_and_equally_hard() -> None:
    few = problems(ArithmeticSettings(), count=100, on_held_out=True)
    many = problems(ArithmeticSettings(), count=600, on_held_out=True)
    assert many[:100] == few
    hard = [sum(each.meta["num_operands"] > 4 for each in each_set) / len(each_set) for each_set in (few, many)]
    assert abs(hard[0] - hard[1]) < 0.1
