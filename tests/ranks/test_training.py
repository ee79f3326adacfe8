"""N ranks train what one trains: the same rollouts, and equal metrics and weights up to the order of sums.

AdamW divides a gradient by its size, so that rounding in a gradient near zero can change a weight by up to the learning
rate per update. At the rate here the eight updates of a run move weights by up to 1e-2; the bound is 1e-5.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import rank_jobs
import ranks
from families import family_model, save_multimodal
from rank_pool import Pool, RankError
from ranks import Difference, difference, rows
from small_runs import ROOT, rollouts
from support import save_tiny, tiny_model, tiny_tokenizer
from vision_families import pictures, save_vision

from edge_grpo.methods import METHODS

PARITY, ANSWERS, SOME = (
    f"reward.function={ROOT / 'tests/parity.py'}:{name}" for name in ("parity", "parity_or_answer", "parity_of_some")
)
NOT_EVALUATED = ("eval.every=0", "eval.at_start=false", "eval.at_end=false")
BASE = (
    *("train.steps=2", "train.passes=2", "train.mini_batches=2", "train.micro_batch_rows=3"),
    *("train.learning_rate=1e-3", "train.weight_decay=0.1"),
    *("rollout.group_size=4", "rollout.max_new_tokens=8", "data.arithmetic.size=20"),
    *("eval.size=5", "reward.workers=1", "run.trackers=[]", *NOT_EVALUATED, PARITY),
)
SEAMS = ("edge_grpo", "mgrpo", "nthr", "share_grpo", "disco", "rpo")  # those with their own path through the loop
LORA, REFERENCE = ("model.lora.rank=2",), ("method.beta=0.05",)
CORRECTED = (ANSWERS, "method.correction.max_new_tokens=110")

WORDS = {
    **dict.fromkeys(("disco", "disco_b"), ("method.beta=10",)),  # 1000 times a drift, of which float32 leaves 1e-8
    "nthr": ("method.threshold=0.1",),  # so that tokens of random answers are selected
}

Compare = Callable[..., Difference]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model's folder by name: ``tied``, ``untied``, or a family."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp("model") / name
            match name:
                case "tied":
                    save_tiny(place)
                case "qwen3_5":
                    save_multimodal(name, place)
                case "qwen2_5_vl":
                    save_vision(name, place)
                case _:
                    (tiny_model("llama") if name == "untied" else family_model(name)).save_pretrained(place)
                    tiny_tokenizer().save_pretrained(place)
            made[name] = place
        return made[name]

    return folder


@pytest.fixture
def compare(pool: Callable[[int], Pool], model: Callable[[str], Path], tmp_path: Path) -> Compare:
    """Train with one process, in ``one``, and with several, in ``many``; how far the runs are apart."""

    def run(*words: str, size: int = 2, name: str = "tied", prompts: int = 3) -> Difference:
        settings = [*BASE, f"model.path={model(name)}", f"rollout.prompts_per_step={prompts}", *words]
        pools = {"one": pool(1), "many": pool(size)}
        for folder, each in pools.items():
            each.start(ranks.trained, [*settings, f"run.dir={tmp_path / folder}"])
        for each in pools.values():
            each.results()
        return difference(tmp_path / "one", tmp_path / "many")

    return run


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Stored pairs, as a setting."""
    file = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"Say {i}.", "chosen": f"{i}!", "rejected": f"{i + 1}, no"} for i in range(7)]
    file.write_text("\n".join(map(json.dumps, lines)))
    return f"data.pairs={file}"


@pytest.fixture
def mixture(tmp_path: Path) -> str:
    """Problems with and without images, as a setting."""
    lines = []
    for number, picture in enumerate(pictures(4)):
        (tmp_path / f"{number}.png").write_bytes(picture.content)
        lines.append({"problem": f"<image> {number}?", "answer": "1", "images": [f"{number}.png"]})
    lines += [{"problem": f"1+{number}?", "answer": str(1 + number)} for number in range(4)]
    file = tmp_path / "mixture.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return f"data.path={file}"


@pytest.mark.parametrize("words", [(), ("distributed.shard=none",), LORA])
def test_ranks_train_alike_on_problems_with_and_without_images(
    compare: Compare, mixture: str, words: tuple[str, ...]
) -> None:
    settings = (mixture, "train.micro_batch_rows=1", *words)
    found = compare(*settings, name="qwen2_5_vl", prompts=4)
    assert_equal(found, but="embed_tokens")  # some tokens hardly occur: their gradients are near zero
    assert max(found.weights.values()) < 1e-4


def assert_equal(found: Difference, *, but: str = "no weight") -> None:
    """Rollouts are equal; weights and losses to 1e-5; the norm of gradients and other figures to 1e-5 of their value.

    A loss is a sum of terms of both signs that nearly cancel; likewise, float32 leaves 1e-6 at best of a figure that is
    a difference of log-probs, such as a KL.
    """
    assert found.rollouts < 1e-5
    assert max(value for name, value in found.weights.items() if but not in name) < 1e-5
    assert found.loss < 1e-5
    others = {name: value for name, value in found.metrics.items() if name != "loss"}
    far = {name: (value, found.relative[name]) for name, value in others.items() if found.relative[name] > 1e-5}
    assert not {name: pair for name, pair in far.items() if name == "grad_norm" or pair[0] > 1e-6}


@pytest.mark.parametrize("kind", METHODS)
def test_two_ranks_train_every_method_as_one_does(compare: Compare, kind: str) -> None:
    assert_equal(compare(f"method={kind}", *WORDS.get(kind, ())))


@pytest.mark.parametrize("kind", [k if k in SEAMS else pytest.param(k, marks=pytest.mark.slow) for k in METHODS])
def test_three_ranks_share_four_prompts(compare: Compare, kind: str) -> None:
    assert_equal(compare(f"method={kind}", *WORDS.get(kind, ()), size=3, prompts=4))


VARIANTS = {
    "nthr full": ("method=nthr", "method.vocabulary=full", "method.include_self=false"),
    "disco squared": ("method=disco", "method.beta=10", "method.penalty=squared", "method.kl_estimator=k3"),
    "disco lora": ("method=disco", "method.beta=10", *LORA),
    "nthr lora": ("method=nthr", *LORA),
    "lora": ("method=grpo", *LORA),
    "lora on a tied head": ("method=grpo", *LORA, "model.lora.targets=[q_proj,lm_head]"),
    "reference": ("method=grpo", *REFERENCE),
    "reference lora": ("method=grpo", *REFERENCE, *LORA),
    "modifiers": (
        *("method=grpo", *REFERENCE, "method.kl_max=5", "method.entropy_coef=0.01", "method.entropy_quantile=0.5"),
        *("method.off_policy_threshold=0.01", "method.sampler_correction=sequence_truncate", "method.delta=3"),
        *("method.scale=batch", "rollout.temperature=0.8"),
    ),
    "dapo top-up": ("method=dapo", "method.top_up.max_rounds=3", SOME),
    "gpg top-up": ("method=gpg", "method.top_up.max_rounds=2", SOME),
    "gpg tokens": ("method=gpg", "method.debias=tokens", "method.scale=group", "method.aggregation=rows"),
    "edge_grpo top-up": ("method.top_up.max_rounds=2", "method.top_up.fill=false", SOME),
    "edge_grpo balanced": ("method.correction.amount=balanced", *CORRECTED),
    "edge_grpo likelihood": ("method.correction.injected=likelihood", *CORRECTED),
    "edge_grpo credited": ("method.correction.wrong_prefix=credited", "method.correction.guard=false", *CORRECTED),
    "edge_grpo lora": (*CORRECTED, *REFERENCE, *LORA),
    "mgrpo per question": ("method=mgrpo", "method.l2_grouping=per_question", "method.l2_filter=sample_success"),
    "share_grpo rows": ("method=share_grpo", "method.every_variant=false", "method.statistics=rows"),
    "rpo robust": (
        *("method=rpo", "method.likelihood=averaged", "method.preference=robust", "method.label_smoothing=0.1"),
        "method.per_token=true",
    ),
    "unlikeliness sum": ("method=unlikeliness", "method.likelihood=sum", "method.wrong_rows=dropped"),
    "raft": ("method=raft", "method.rejected=zero_advantage", "method.reward_values=run", *REFERENCE),
    "not sharded": ("distributed.shard=none", *CORRECTED),
    "not sharded disco": ("method=disco", "method.beta=10", "distributed.shard=none"),
    "not sharded lora": ("method=grpo", "distributed.shard=none", *REFERENCE, *LORA),
    "not clipped": ("method=grpo", "train.max_grad_norm=1000"),
    "stop strings": ("method=grpo", 'rollout.stop=["5", "7"]', "rollout.max_new_tokens=30", "train.seed=1"),
    "dead groups": ("method=grpo", SOME),
    "groups dropped": ("method=dapo", "method.top_up.fill=false", SOME),
}


SLOW = (
    "nthr full",
    "lora on a tied head",
    "disco lora",
    "gpg tokens",
    "edge_grpo credited",
    "unlikeliness sum",
    "raft",
    "not clipped",
)


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, words in VARIANTS.items()],
)
def test_two_ranks_train_variants_as_one_does(compare: Compare, words: tuple[str, ...]) -> None:
    assert_equal(compare(*words))


def test_an_update_in_bf16_is_equal_where_sums_have_two_terms(compare: Compare, pairs: str) -> None:
    """Two micro-batches per update: their sum has no order. A norm of bf16 gradients has 8 bits, so nothing is clipped.

    Nothing is sampled, because logits are rounded to 8 bits by shape, and two ranks decode other shapes. AdamW's last
    bit depends on where a slice begins; a second update would see it rounded to 8 bits.
    """
    words = ("method=rpo", pairs, "rollout.max_new_tokens=20", "model.dtype=bfloat16", "train.micro_batch_rows=2")
    words += ("train.steps=1", "train.passes=1", "train.mini_batches=1", "train.max_grad_norm=1000")
    found = compare(*words, prompts=2)
    assert found.weight < 1e-8
    assert found.loss == found.rollouts == 0.0
    assert found.relative["grad_norm"] < 1e-6


FAMILIES = ("untied", "qwen3_5", "qwen3_next", "mixtral", "gpt2", "gemma3_text")


@pytest.mark.parametrize("words", [(), pytest.param(LORA, marks=pytest.mark.slow)], ids=["whole", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_ranks_train_families_as_one_does(compare: Compare, name: str, words: tuple[str, ...]) -> None:
    keys = "attn.c_attn.bias" if name == "gpt2" else "no weight"  # shifts all scores of a query: its gradient is noise
    assert_equal(compare("method=grpo", *words, name=name), but=keys)


def test_token_scores_of_all_ranks_count(compare: Compare, tmp_path: Path) -> None:
    assert_equal(compare("method=nthr", *WORDS["nthr"], "distributed.shard=none", size=3, prompts=4))
    assert all(0 < row["nthr/selected"] < 1 for row in rows(tmp_path / "many"))


def test_all_kinds_of_correction_are_shared(compare: Compare, tmp_path: Path) -> None:
    assert_equal(compare(*CORRECTED, size=3, prompts=4))
    used = {row["strategy"] for step in rollouts(tmp_path / "many") for row in step}
    assert used == {"none", "reflect", "answer", "reference"}


def test_stored_pairs_are_shared(compare: Compare, pairs: str) -> None:
    assert_equal(compare("method=rpo", pairs, "rollout.max_new_tokens=20"))


@pytest.mark.parametrize("kind", ["grpo", "disco", "nthr"])
def test_a_rank_without_work_takes_part_in_every_pass(compare: Compare, kind: str) -> None:
    words = (f"method={kind}", *WORDS.get(kind, ()), "rollout.group_size=2", "train.mini_batches=1")
    assert_equal(compare(*words, size=3, prompts=1))


def test_groups_may_be_dead_on_one_rank_alone(compare: Compare, tmp_path: Path) -> None:
    assert_equal(compare("method=grpo", SOME, prompts=2))
    shares = [
        tuple(len({row["reward"] for row in step if row["group"] == group}) > 1 for group in (0, 1))
        for step in rollouts(tmp_path / "many")
    ]
    assert {(True, False), (False, True)} & set(shares)


def test_evaluations_and_the_best_checkpoint_are_the_same(compare: Compare, tmp_path: Path) -> None:
    words = ("method=grpo", "eval.every=1", "eval.at_start=true", "eval.size=5", "eval.samples=2")
    assert_equal(compare(*words, "eval.temperature=1", "train.keep_best=true", "train.keep_checkpoints=1"))
    assert all("eval/accuracy" in row for row in rows(tmp_path / "many"))
    kept = [{each.name for each in (tmp_path / name / "checkpoints").iterdir()} for name in ("one", "many")]
    assert kept[0] == kept[1]


def test_rank_0_alone_opens_trackers(pool: Callable[[int], Pool], model: Callable[[str], Path], tmp_path: Path) -> None:
    words = [*BASE, "method=grpo", f"model.path={model('tied')}", f"run.dir={tmp_path / 'run'}", "train.steps=1"]
    assert pool(2).call(rank_jobs.opened_trackers, words) == [["run"], []]


def test_ranks_started_with_different_settings_are_one_line(pool: Callable[[int], Pool], tmp_path: Path) -> None:
    message = r"ranks 0 and 1 were started with different train.seed \(0 and 1\); give all ranks the same "
    with pytest.raises(RankError, match=message):
        pool(2).call(rank_jobs.trained_differently, [*BASE, f"run.dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()
