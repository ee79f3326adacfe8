"""A run resumes on as many ranks bit for bit, and on more or fewer up to the order of sums; one checkpoint format."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import rank_jobs
import ranks
import torch
from rank_pool import Pool
from ranks import difference, final_weights
from safetensors.torch import load_file, save_file
from small_runs import ROOT, rollouts, rows, weights
from support import Command, save_tiny

from edge_grpo.base.digests import sha256
from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.training.checkpoint import SUMS

Run = Callable[..., Path]

WORDS = (
    *("method=grpo", "train.passes=2", "train.mini_batches=2", "train.micro_batch_rows=3", "train.schedule=constant"),
    *("rollout.prompts_per_step=3", "rollout.group_size=4", "rollout.max_new_tokens=8", "data.arithmetic.size=20"),
    *("reward.workers=1", f"reward.function={ROOT / 'tests/parity.py'}:parity", "run.trackers=[]"),
    *("eval.size=5", "eval.every=0", "eval.at_start=false", "eval.at_end=false"),
)
KINDS = {"whole": (), "adapters": ("model.lora.rank=2",), "not sharded": ("distributed.shard=none",)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(pool: Callable[[int], Pool], model: Path, tmp_path: Path) -> Run:
    """Train a run step by step with changing numbers of ranks: ``run("name", [(ranks, steps), ...])``."""

    def do(name: str, parts: Sequence[tuple[int, int]], *more: str) -> Path:
        job = ranks.trained if not (tmp_path / name).exists() else rank_jobs.resumed
        for size, steps in parts:
            words = [*WORDS, f"model.path={model}", f"run.dir={tmp_path / name}", f"train.steps={steps}", *more]
            folder = pool(size).call(job, words)[0]
            job = rank_jobs.resumed
        return Path(folder)

    return do


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_the_same_number_of_ranks_resumes_bit_for_bit(run: Run, words: tuple[str, ...]) -> None:
    end = 4 if words else 6
    straight, again = run("straight", [(2, end)], *words), run("again", [(2, end // 2), (2, end)], *words)
    assert weights(again) == weights(straight)
    assert rows(again) == rows(straight)
    assert rollouts(again) == rollouts(straight)


CHANGES = {
    "2-1-2": [(2, 2), (1, 3), (2, 4)],
    "2-3": [(2, 2), (3, 4)],
}


@pytest.mark.parametrize("parts", CHANGES.values(), ids=CHANGES)
def test_other_numbers_of_ranks_resume(run: Run, parts: list[tuple[int, int]]) -> None:
    found = difference(run("straight", [(2, 4)]), run("again", parts))
    assert found.weight < 1e-6
    assert found.rollouts < 1e-5


def test_adapters_resume_on_other_numbers_of_ranks(run: Run) -> None:
    lora = ("model.lora.rank=2",)
    parts = [(1, 1), (2, 2), (1, 3)]
    assert difference(run("straight", [(2, 3)], *lora), run("again", parts, *lora)).weight < 1e-6


def test_a_checkpoint_may_be_read_sharded_or_not(run: Run) -> None:
    mixed = run("mixed", [(2, 1)])
    run("mixed", [(2, 2)], "distributed.shard=none")
    run("mixed", [(2, 3)])
    assert difference(run("straight", [(2, 3)]), mixed).weight < 1e-6


def test_ranks_write_slices_and_together_they_are_the_model(run: Run, tmp_path: Path) -> None:
    folder = run("run", [(2, 2)])
    checkpoint = folder / "checkpoints/step_000002"
    assert sorted(file.name for file in checkpoint.iterdir()) == [
        SUMS,
        *(f"optimizer-0000{rank}-of-00002.safetensors" for rank in (1, 2)),
        "progress.json",
        *(f"weights-0000{rank}-of-00002.safetensors" for rank in (1, 2)),
    ]
    sizes = [(checkpoint / f"weights-0000{rank}-of-00002.safetensors").stat().st_size for rank in (1, 2)]
    assert max(sizes) < 0.6 * sum(sizes)
    loaded = dict(load_policy(ModelSettings(path=str(checkpoint))).trained())
    assert all(torch.equal(loaded[name], value) for name, value in final_weights(folder).items())


def test_a_checkpoint_of_two_ranks_is_exported_and_evaluated(run: Run, command: Command) -> None:
    folder = run("run", [(2, 2)])
    code, _, err = command("export", str(folder), "out")
    assert (code, err) == (0, "")
    assert Path("out/model.safetensors").read_bytes() == (folder / "final/model.safetensors").read_bytes()
    lines = [{"prompt": f"Compute {number}+1.", "answer": str(number + 1)} for number in range(4)]
    Path("sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("suite.yaml").write_text("benchmarks:\n  Sums: {path: sums.jsonl, fields: {prompt: prompt, answer: answer}}\n")
    words = ("--suite", "suite.yaml", "--samples", "2", "rollout.max_new_tokens=8", "reward.workers=1")
    for name, path in (("checkpoint", folder / "checkpoints/step_000002"), ("final", folder / "final")):
        code, _, err = command("eval", *words, "--model", str(path), "--out", name)
        assert (code, err) == (0, "")
    found = [json.loads(Path(name, "results.json").read_text())["benchmarks"] for name in ("checkpoint", "final")]
    assert found[0] == found[1]


def older(checkpoint: Path) -> None:
    """Rewrite a checkpoint of one process as releases without ranks wrote it."""
    for stem in ("weights", "optimizer"):
        file = checkpoint / f"{stem}.safetensors"
        tensors = load_file(file)
        file.unlink()
        save_file(tensors, file)
    progress = json.loads((checkpoint / "progress.json").read_text())
    del progress["num_ranks"]
    (checkpoint / "progress.json").write_text(json.dumps(progress, indent=2) + "\n")
    names = ("optimizer.safetensors", "progress.json", "weights.safetensors")
    (checkpoint / SUMS).write_text("".join(f"{sha256(checkpoint / name)}  {name}\n" for name in names))


def test_a_checkpoint_of_an_older_release_resumes(run: Run, tmp_path: Path) -> None:
    straight = run("straight", [(1, 4)])
    old = run("old", [(1, 2)])
    older(old / "checkpoints/step_000002")
    shutil.copytree(old, tmp_path / "divided")
    run("old", [(1, 4)])
    assert weights(old) == weights(straight)
    assert rows(old) == rows(straight)
    assert difference(straight, run("divided", [(2, 4)])).weight < 1e-6
