import json
from pathlib import Path

import pytest
from bundled.recipes import check_recipe
from transformers import AutoConfig

from edge_grpo.bundled.make_vision import VisionBaseSettings, make_vision_base
from edge_grpo.config.sections import ModelSettings
from edge_grpo.config.tree import load_config
from edge_grpo.models.loading import load_policy, resolve
from edge_grpo.training.loop import train

SHORT = VisionBaseSettings(steps=2, lesson_steps=1, batch_size=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_base(tmp_path_factory.mktemp("base") / "one", SHORT)


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_another_model(made: Path, tmp_path: Path) -> None:
    check_recipe(make_vision_base, SHORT, made, tmp_path)


def test_the_bundled_model_was_made_by_this_recipe(made: Path) -> None:
    bundled = Path(resolve("bundled-vision"))
    files = {file.name for file in bundled.iterdir()}
    assert files == {file.name for file in made.iterdir()}
    assert sum(file.stat().st_size for file in bundled.iterdir()) < 4 * 2**20
    for name in files - {"model.safetensors"}:
        assert (bundled / name).read_text() == (made / name).read_text(), name
    assert AutoConfig.from_pretrained(bundled).model_type == "qwen2_5_vl"
    policy = load_policy(ModelSettings(path="bundled-vision"))
    assert policy.vision is not None
    assert policy.vision.marker() == "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.slow
def test_share_grpo_learns_to_read_pictures(tmp_path: Path) -> None:
    words = ["train.steps=20", "eval.every=0", f"run.dir={tmp_path / 'run'}"]
    folder = train(load_config(Path("configs/share_grpo_digits.yaml"), words)).folder
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert written[-1]["eval/accuracy"] >= written[0]["eval/accuracy"] + 0.15
    accuracy = [row["accuracy"] for row in written[1:]]
    assert sum(accuracy[-5:]) >= sum(accuracy[:5]) + 1.0
