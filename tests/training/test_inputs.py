"""Digests of what a run learns from: equal in every process, and named by the setting that brought the input."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import rank_jobs
from rank_pool import Pool, RankError

from edge_grpo.base.records import Pair, Problem, Prompt
from edge_grpo.config.tree import load_config
from edge_grpo.data.pairs import EncodedPair
from edge_grpo.training.inputs import changed, digests
from edge_grpo.training.source import StoredPairs

PAIR = EncodedPair(Pair("a", "1?", "yes", "no"), (1,), (2,), (3,))
HELD_OUT = Prompt(Problem("p", "2?", ("3",)), (4, 5))


def test_digests_tell_content_from_tokens() -> None:
    config = load_config(None, [])

    def of(pair: EncodedPair, held_out: Prompt = HELD_OUT) -> dict[str, str]:
        return digests(config, StoredPairs((pair,), 1, 2, 0), [held_out])

    base = of(PAIR)
    assert of(PAIR) == base
    assert base["reward"] == ""

    def differing(other: dict[str, str]) -> set[str]:
        return {name for name in base if base[name] != other[name]}

    assert differing(of(replace(PAIR, pair=replace(PAIR.pair, chosen="maybe")))) == {"data"}
    assert differing(of(replace(PAIR, rejected_ids=(9,)))) == {"prompts"}
    assert differing(of(PAIR, replace(HELD_OUT, prompt_ids=(6,)))) == {"held_out_prompts"}
    assert differing(of(PAIR, replace(HELD_OUT, problem=replace(HELD_OUT.problem, answers=("4",))))) == {"held_out"}


@pytest.mark.parametrize(
    ("words", "different", "named"),
    [
        ([], {"data", "prompts"}, ("the built-in problems",)),
        (["data.path=a"], {"data", "held_out", "prompts"}, ("data.path",)),
        (["data.path=a", "data.eval_path=b"], {"held_out", "held_out_prompts"}, ("data.eval_path",)),
        (["data.pairs=c"], {"data"}, ("data.pairs",)),
        ([], {"prompts", "held_out_prompts"}, ("the rendered prompts (chat template or tokenizer)",)),
        ([], {"model", "reward"}, ("model.path", "the code of reward.function")),
    ],
)
def test_changes_are_named_by_their_settings(words: list[str], different: set[str], named: tuple[str, ...]) -> None:
    names = ("data", "prompts", "held_out", "held_out_prompts", "model", "reward")
    before, now = dict.fromkeys(names, "a"), {name: "b" if name in different else "a" for name in names}
    assert changed(before, now, load_config(None, words)) == named
    assert changed({}, now, load_config(None, words)) == (), "what was not recorded cannot have changed"


def test_machines_must_have_the_same_inputs(pool: Callable[[int], Pool]) -> None:
    names = ("data", "prompts", "held_out", "held_out_prompts", "model", "reward")
    same = dict.fromkeys(names, "a")
    assert pool(2).call(rank_jobs.inputs_of_machines, [same, same]) == [same, same]
    message = r"rank 1 \(on node1\) reads other inputs than rank 0: model.path and the code of reward.function; "
    with pytest.raises(RankError, match=message):
        pool(2).call(rank_jobs.inputs_of_machines, [same, {**same, "model": "b", "reward": "b"}])
