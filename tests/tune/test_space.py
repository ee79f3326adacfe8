"""Spaces: values and the unit cube map to each other exactly, and points become configurations."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tune.spaces import TEXT, space_of

from edge_grpo.config.tree import load_config
from edge_grpo.tune.space import (
    Categorical,
    Continuous,
    Integer,
    Log,
    Space,
    Value,
    config_at,
    dims,
    encode,
    misfit,
    point_at,
    shown,
    words_at,
)

places = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return space_of(tmp_path_factory.mktemp("space"))


@given(places=places)
def test_values_and_the_cube_map_to_each_other_exactly(space: Space, places: list[float]) -> None:
    point = point_at(space, places)
    coordinates = encode(space, point)
    assert len(coordinates) == dims(space) == 6
    assert all(0 <= number <= 1 for number in coordinates)
    places_of = [each.place(point[name]) for name, each in list(space.space.items())[:3]]
    assert point_at(space, [*places_of, places[3]]) == point
    assert not misfit(space, point)
    assert sorted(coordinates[3:]) == [0.0, 0.0, 1.0]


@given(place=st.floats(0, 1))
def test_positions_map_to_values_on_their_scale(place: float) -> None:
    assert Log(low=1e-5, high=1e-1).value(place) == pytest.approx(1e-5 * 1e4**place, rel=1e-5)
    assert Continuous(low=-2, high=2).value(place) == pytest.approx(4 * place - 2, abs=1e-5)


def test_ends_are_reached_and_whole_numbers_get_equal_room() -> None:
    assert [Log(low=2e-5, high=2e-3).value(place) for place in (0, 1)] == [2e-5, 2e-3]
    drawn = [Integer(low=3, high=6).value((i + 0.5) / 400) for i in range(400)]
    assert [drawn.count(value) for value in (3, 4, 5, 6)] == [100] * 4
    logs = Integer(low=1, high=64, log=True)
    assert {logs.value(place / 1000) for place in range(1001)} == set(range(1, 65))
    assert [logs.value(logs.place(value)) for value in range(1, 65)] == list(range(1, 65))
    assert [Categorical(values=(True, 1, "1")).value(place) for place in (0, 0.5, 1)] == [True, 1, "1"]
    assert [Categorical(values=(True, 1, "1")).index(value) for value in (True, 1, "1")] == [0, 1, 2]


@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.integers() | st.text(max_size=5))
def test_a_value_survives_yaml(value: Value) -> None:
    found = yaml.safe_load(shown(value))
    assert found == value
    assert type(found) is type(value)


def test_a_point_becomes_a_configuration(space: Space) -> None:
    point = point_at(space, [0.5, 0.5, 0.9, 0.5])
    config = config_at(space, point)
    assert config.train.learning_rate == pytest.approx(1e-4)
    assert config.method.clip_low == config.method.clip_high == 0.225
    assert (config.train.passes, config.method.correction.amount, config.train.steps) == (4, "balanced", 2)
    assert config == load_config(None, [*space.settings, *words_at(space, point)])


def test_a_method_is_set_before_its_settings(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        "space:\n  method.clip_low: {type: continuous, low: 0.1, high: 0.3}\n"
        "  method: {type: categorical, values: [grpo, dapo]}\nobjective: {weights: {3: 1}}\n",
    )
    assert words_at(space, {"method": "dapo", "method.clip_low": 0.2}) == ['method="dapo"', "method.clip_low=0.2"]
    config = config_at(space, {"method": "dapo", "method.clip_low": 0.125})
    assert (config.method.kind, config.method.clip_low) == ("dapo", 0.125)


def test_a_searched_method_keeps_its_fixed_settings_in_force(tmp_path: Path) -> None:
    text = TEXT.replace("settings: [", "settings: [method.beta=0.25, ").replace(
        "space:", "space:\n  method: {type: categorical, values: [grpo, dapo]}", 1
    )
    text = "\n".join(line for line in text.splitlines() if "correction" not in line)
    space = space_of(tmp_path, text)
    for place, kind in ((0.0, "grpo"), (0.9, "dapo")):
        config = config_at(space, point_at(space, [place, 0.5, 0.5, 0.5]))
        assert (config.method.kind, config.method.beta) == (kind, 0.25)
