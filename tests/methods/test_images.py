"""Every method on pictures: with a tiny vision-language model it trains, resumes bit for bit, and knows no batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from methods.test_training import KINDS
from safetensors.torch import load_file
from small_runs import ADAPTER, ROOT, SMALL, resumed, rollouts, rows, weights
from transformers import AutoModelForImageTextToText
from vision_families import save_vision

from edge_grpo.base.errors import DataError
from edge_grpo.config.tree import Config, load_config
from edge_grpo.data.pictures import open_picture
from edge_grpo.methods import METHODS
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.training.loop import train
from edge_grpo.training.session import open_session
from edge_grpo.training.shown import pictures_of

Learning = Callable[..., Config]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision("qwen2_5_vl", tmp_path_factory.mktemp("model"))


@pytest.fixture
def learning(model: Path, tmp_path: Path) -> Learning:
    """A configuration under which a random model earns rewards that differ, so that every method trains."""

    def make(kind: str, name: str, *overrides: str) -> Config:
        base = [text for text in SMALL if not text.startswith(("method.", "data."))]
        reward = f"reward.function={ROOT / 'tests/parity.py'}:parity"
        words = [f"method={kind}", "train.steps=3", "train.passes=2", "train.mini_batches=2", "run.trackers=[]"]
        words += ["eval.every=0", "eval.at_start=false", "eval.at_end=false", "rollout.max_new_tokens=8"]
        words += ["data.task=digits", "data.digits.size=12"]
        words += ["method.transform_share=0.7"] if kind == "share_grpo" else []
        more = [reward, "train.learning_rate=0.01", "train.checkpoint_every=1", f"run.dir={tmp_path / name}"]
        return load_config(None, [f"model.path={model}", *base, *words, *more, *overrides])

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_on_images_and_resumes_bit_for_bit(learning: Learning, model: Path, kind: str) -> None:
    straight, again = resumed(learning(kind, "one"), learning(kind, "two"))
    assert weights(again) == weights(straight)
    assert rows(again) == rows(straight)
    assert rollouts(again) == rollouts(straight)
    assert not any(row.get("skipped_updates") for row in rows(straight))
    before, after = (load_file(folder / "model.safetensors") for folder in (model, straight / "final"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("visual" in name for name in changed)
    assert any("language" in name or "layers" in name for name in changed)
    AutoModelForImageTextToText.from_pretrained(straight / "final")
    assert (straight / "final/preprocessor_config.json").is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_micro_batches_changes_nothing_on_images(learning: Learning, kind: str) -> None:
    found: list[dict[str, Any]] = []
    for size in (2, 64):
        config = learning(kind, "run", f"train.micro_batch_rows={size}", "train.passes=1", "train.mini_batches=1")
        with open_session(config) as session:
            collected = session.collect()
            lesson = session.prepare(collected)
            assert lesson is not None
            assert any(lesson.batch.scenes)
            figures = session.updater.step(lesson.batch, lesson.signal, step=0)
            found.append({name: total / count for name, (total, count) in figures.items() if count})
    one, other = found
    for name in ("loss", "grad_norm"):
        assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5)


def test_answers_are_trained_under_every_variants_own_image(learning: Learning) -> None:
    with open_session(learning("share_grpo", "run")) as session:
        groups = session.method.arrange(session.collect().groups)
    shown = {group.rows[0].rollout.scene for group in groups}
    assert any(picture.transform for scene in shown if scene for picture in scene.pictures)
    for group in groups:
        assert len({(row.rollout.prompt_ids, row.rollout.scene) for row in group.rows}) == 1
        assert {row.source for row in group.rows} == {0, 1}
    family = [group for group in groups if group.family == groups[0].family]
    assert len(family) == 2
    answers = [sorted(row.rollout.completion_ids for row in group.rows) for group in family]
    assert answers[0] == answers[1]


def test_a_step_is_recorded_with_the_images_it_was_trained_under(learning: Learning) -> None:
    folder = train(learning("share_grpo", "run", "train.steps=1")).folder
    (step,) = rollouts(folder)
    for row in step:
        (image,) = row["images"]
        assert image["name"].startswith("digits-train-")
        assert len(image["digest"]) == 24
    assert {row["images"][0]["transform"] for row in step} - {""}
    assert rows(folder)[-1]["variants/transformed"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_every_method_trains_adapters_on_images(learning: Learning, kind: str) -> None:
    folder = train(learning(kind, "run", "model.lora.rank=2", "train.steps=2")).folder
    trained = {name for name, tensor in load_file(folder / ADAPTER).items() if "lora_B" in name and tensor.any()}
    assert trained
    assert not any("visual" in name for name in trained)
    AutoModelForImageTextToText.from_pretrained(folder / "final")


def test_a_variant_that_would_be_too_long_is_shown_as_it_is(learning: Learning) -> None:
    config = learning("share_grpo", "run", "method.transform_share=1.0")
    with open_session(config) as session:
        longest = max(len(each.prompt_ids) for each in session.source.prompts)  # type: ignore[attr-defined]
        session.sampler.data = replace(config.data, max_prompt_tokens=longest + 45)
        collected = session.collect()
    assert collected.metrics["variants/too_long"][0] > 0
    for group in collected.groups:
        assert len(group.rows[0].rollout.prompt_ids) <= longest + 45


def test_transforms_are_drawn_from_the_runs_seed_and_only_in_training(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
    sample = Sampler.sample

    def note(self: Sampler, prompts: Any, seeds: Any, sampling: Any) -> Any:
        pictures = [picture for prompt in prompts for picture in prompt.scene.pictures]
        shown[sampling.temperature > 0] += [(picture.transform, picture.seed) for picture in pictures]
        return sample(self, prompts, seeds, sampling)

    monkeypatch.setattr(Sampler, "sample", note)
    words = ["method.transform_share=1.0", "eval.at_start=true", "eval.size=4", "train.steps=1"]
    drawn = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(learning("share_grpo", name, *words, f"train.seed={seed}"))
        drawn.append(list(shown[True]))
        shown[True].clear()
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(transform for transform, _ in drawn[0])
    assert len({*drawn[0]}) > 2
    assert shown[False] == [("", 0)] * 12


def test_a_single_variant_is_transformed_too(learning: Learning) -> None:
    with open_session(learning("share_grpo", "run", "method.num_variants=1", "method.transform_share=1.0")) as session:
        collected = session.collect()
    pictures = [picture for group in collected.groups for picture in group.rows[0].rollout.scene.pictures]  # type: ignore[union-attr]
    assert all(picture.transform for picture in pictures)
    assert collected.metrics["variants/transformed"][0] == len(pictures) == len(collected.groups)


def test_the_pictures_of_a_completion_are_found_again_from_the_run_folder(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[tuple[int, ...], list[np.ndarray[Any, Any]]] = {}
    sample = Sampler.sample

    def note(self: Sampler, prompts: Any, seeds: Any, sampling: Any) -> Any:
        for prompt in prompts:
            shown[prompt.prompt_ids] = [np.asarray(open_picture(each)) for each in prompt.scene.pictures]
        return sample(self, prompts, seeds, sampling)

    monkeypatch.setattr(Sampler, "sample", note)
    words = ["method.transform_share=1.0", "method.every_variant=false", "data.images.max_pixels=2000"]
    folder = train(learning("share_grpo", "run", "train.steps=1", *words)).folder
    pictures = pictures_of(folder)
    (step,) = rollouts(folder)
    assert step
    for row in step:
        found = [np.asarray(open_picture(each)) for each in pictures(row)]
        assert [each.tolist() for each in found] == [each.tolist() for each in shown[tuple(row["prompt_ids"])]]
    lost = step[0] | {"images": [step[0]["images"][0] | {"digest": "0" * 24}]}
    with pytest.raises(DataError, match=r"digits-train-.*: the data of .*run has no such picture any more"):
        pictures(lost)
    with pytest.raises(DataError, match=r"no run \(no config\.yaml\)"):
        pictures_of(folder / "rollouts")
