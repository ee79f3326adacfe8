"""How far a suggestion explores: the bound grows with the number of suggestions, not with the initial trials."""

from pathlib import Path

from tune.spaces import space_of

from edge_grpo.tune.acquisition import beta_finite, confidence_bound
from edge_grpo.tune.record import Trial
from edge_grpo.tune.suggest import believe, suggest

TEXT = """
settings: [train.steps=2, eval.every=1]
space:
  train.passes: {type: integer, low: 1, high: 30}
objective:
  weights: {3: 1, 4: 1}
  problems: 4
trials: 8
initial: 3
"""
SCORES = {27: (0.412, 0.675), 28: (0.091, 0.7), 11: (-0.501, 0.275), 8: (0.457, 0.2), 24: (0.989, 0.6)}


def test_suggestions_are_counted_from_the_first_after_the_initial_trials(tmp_path: Path) -> None:
    space = space_of(tmp_path, TEXT)
    trials = [
        Trial(number, {"train.passes": passes}, "finished", {"3": one, "4": two}, one + two, 1.0)
        for number, (passes, (one, two)) in enumerate(SCORES.items(), 1)
    ]
    belief = believe(space, trials)
    assert belief is not None
    new = [{"train.passes": passes} for passes in range(1, 31) if passes not in SCORES]
    whole = belief.whole_at(new)
    deviation = whole.variance.clamp(min=0).sqrt()

    def best(count: int) -> dict[str, int]:
        beta = beta_finite(len(new), count, delta=space.delta, scale=space.scale)
        return new[int(confidence_bound(whole.mean, deviation, beta).argmax())]

    suggestion = suggest(space, trials, number=6)
    assert suggestion is not None
    assert suggestion.point == best(6 - 3)
    assert suggestion.point != best(6), "the two counts differ here"
