"""The published vision-language configuration on plots in a parquet file, and mistakes with images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from small_runs import ROOT, SMALL, rollouts, rows
from support import save_tiny
from vision_families import save_vision

from edge_grpo.base.errors import ConfigError, DataError, EdgeGrpoError
from edge_grpo.config.tree import Config, load_config
from edge_grpo.data.pictures import gradient
from edge_grpo.trackers.console import PlainDisplay
from edge_grpo.training.loop import train

CONFIG = ROOT / "configs/share_grpo_qwen2.5_vl_7b.yaml"


def plot(number: int, kind: str) -> bytes:
    """A bar chart with one bar that is as high as the number."""
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.bar(["a", "b", "c"], [1, number, 2])
    axes.set_ylabel("count")
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return stream.getvalue()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Rows with the columns of R1-ShareVL-52K."""
    content = [
        {
            "images": [{"bytes": plot(number, kind), "path": f"images/{number}.{kind}"}],
            "problem": "<image>How high is bar b?",
            "answer": str(number),
            "new_questions": ["<image>What is the value of b?", "<image>Read the height of the bar in the middle."],
        }
        for number in range(3, 9)
        for kind in ("png", "jpeg")
    ]
    pq.write_table(pa.Table.from_pylist(content), tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_the_published_configuration_trains_on_plots_in_a_parquet_file(parquet: Path, tmp_path: Path) -> None:
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}  # those of the real processor
    model = save_vision("qwen2_5_vl", tmp_path / "model", text={"max_position_embeddings": 4096}, images={"size": size})
    config = load_config(
        CONFIG,
        [
            *(f"model.path={model}", f"data.path={parquet}", f"run.dir={tmp_path / 'run'}", "reward.workers=1"),
            *("train.steps=3", "rollout.prompts_per_step=2", "rollout.group_size=2", "rollout.max_new_tokens=6"),
            *("train.mini_batches=2", "eval.size=2", "run.trackers=[]"),
            *(f"reward.function={ROOT / 'tests/parity.py'}:parity", "method.transform_share=0.7"),
        ],
    )
    folder = train(config).folder
    steps = rows(folder)[1:]
    assert len(steps) == 3
    assert all(row["grad_norm"] > 0 and row["loss"] == row["loss"] for row in steps)
    shown = [row for step in rollouts(folder) for row in step]
    assert all(300 < len(row["prompt_ids"]) < 2048 for row in shown)  # 262,144 pixels are 334 tokens
    assert {row["variant"] for row in shown} == {0, 1}
    assert any(row["images"][0]["transform"] for row in shown)
    assert "data/new_questions" not in shown[0]


def test_the_published_configuration_holds_the_releases_values() -> None:
    config = load_config(CONFIG, ["data.path=rows.parquet"])
    method: Any = config.method
    assert (method.kind, method.num_variants, method.transform_share, len(method.transforms)) == (
        "share_grpo",
        2,
        0.3,
        9,
    )
    assert (method.clip_low, method.clip_high, method.delta, method.beta) == (0.2, 0.3, 3.0, 0.0)
    assert (config.rollout.group_size, config.rollout.prompts_per_step, config.rollout.max_new_tokens) == (6, 512, 2048)
    assert (config.rollout.temperature, config.rollout.top_p, config.data.max_prompt_tokens) == (1.0, 0.99, 2048)
    assert (config.data.images.min_pixels, config.data.images.max_pixels) == (262144, 1048576)
    assert (config.train.learning_rate, config.train.weight_decay, config.train.max_grad_norm) == (1e-6, 0.01, 1.0)
    assert (config.train.passes, config.train.mini_batches) == (1, 8)
    assert (config.reward.format, config.reward.format_weight, config.reward.accuracy_weight) == ("think", 0.1, 0.9)


Run = Callable[..., Config]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def make(model: Path, row: dict[str, Any], *overrides: str) -> Config:
        (tmp_path / "a.png").write_bytes(gradient(56, 56).content)
        asked = row.get("problem", "<image>")
        content = [{"answer": "1", "images": ["a.png"]} | row | {"problem": f"{asked} {i}?"} for i in range(8)]
        pq.write_table(pa.Table.from_pylist(content), tmp_path / "rows.parquet")
        base = [text for text in SMALL if not text.startswith(("method.", "data."))]
        words = [f"model.path={model}", f"data.path={tmp_path / 'rows.parquet'}", f"run.dir={tmp_path / 'run'}"]
        return load_config(None, [*base, "method=grpo", *words, "train.steps=1", "eval.every=0", *overrides])

    return make


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision("qwen2_5_vl", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("row", "overrides", "error", "message"),
    [
        ({"images": ["b.png"]}, (), DataError, r"row 1, field 'images': .*b\.png: no such file"),
        ({"problem": "How many?"}, (), DataError, "row 1, field 'problem': <image> stands .* nowhere, .* 1 image"),
        ({"images": []}, (), DataError, "row 1, field 'problem': <image> stands .* once, .* 0 images"),
        (
            {},
            ("data.images.max_file_pixels=100",),
            DataError,
            r"56 x 56 pixels, more than data\.images\.max_file_p",
        ),
        (
            {},
            ("data.max_prompt_tokens=10",),
            DataError,
            r"tokens, those of its images included.*images\.max_pixels",
        ),
        (
            {},
            ("rollout.max_new_tokens=500",),
            ConfigError,
            r"exceed the model's context of 512; lower it, or",
        ),
        ({"problem": "<image> <|image_pad|>?"}, (), DataError, "the model's processor rejects its prompt"),
    ],
)
def test_mistakes_with_images_are_one_line_each(
    run: Run, model: Path, row: dict[str, Any], overrides: tuple[str, ...], error: type[EdgeGrpoError], message: str
) -> None:
    with pytest.raises(error, match=message) as found:
        train(run(model, row, *overrides))
    assert "\n" not in str(found.value)


def test_a_text_model_given_images_says_so(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows:\d' has images, but the model of model\.path reads only text"):
        train(run(save_tiny(tmp_path / "text"), {}))


@pytest.mark.parametrize("rule", ["error", "skip"])
def test_a_damaged_image_is_a_bad_row(
    run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str
) -> None:
    (tmp_path / "cut.png").write_bytes(gradient(56, 56).content[:-60])
    config = run(model, {}, f"data.bad_rows={rule}")
    table = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    table[3]["images"] = ["cut.png"]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "rows.parquet")
    if rule == "error":
        with pytest.raises(DataError, match=r"problem 'rows:4', image 1 \(.*cut\.png\) is damaged"):
            train(config)
    else:
        assert train(config, display=PlainDisplay()).steps == 1
        assert "1 bad rows skipped, 0 over-long prompts skipped" in capsys.readouterr().out
