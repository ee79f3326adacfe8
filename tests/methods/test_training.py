"""Every method in its own run: it trains, resumes bit for bit, and trains adapters."""

import json
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import ADAPTER, ROOT, SMALL, documented, resumed, rollouts, rows, weights
from support import save_tiny
from transformers import AutoModelForCausalLM

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import Config, load_config
from edge_grpo.methods import METHODS
from edge_grpo.training.loop import train

Learning = Callable[..., Config]


def page_of(kind: str) -> str:
    """The text of the method's page."""
    for path in (ROOT / "docs/methods").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        if path.stem == kind or re.search(rf"^Kinds: .*`{kind}`", text, re.MULTILINE):
            return text
    raise AssertionError(f"{kind} has no page")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def learning(model: Path, tmp_path: Path) -> Learning:
    """A configuration under which a random model earns rewards that differ, so that every method trains."""

    def make(kind: str, name: str, *overrides: str) -> Config:
        base = [text for text in SMALL if not text.startswith("method.")]
        reward = f"reward.function={ROOT / 'tests/parity.py'}:parity"
        words = [f"method={kind}", "train.steps=3", "train.passes=2", "train.mini_batches=2", "run.trackers=[]"]
        words += ["eval.every=0", "eval.at_start=false", "eval.at_end=false", "rollout.max_new_tokens=8"]
        more = [reward, "train.learning_rate=0.01", "train.checkpoint_every=1", f"run.dir={tmp_path / name}"]
        return load_config(None, [f"model.path={model}", *base, *words, *more, *overrides])

    return make


# Those with their own path through the loop; the others run in the slow set.
SEAMS = ("edge_grpo", "mgrpo", "unlikeliness", "nthr", "share_grpo", "disco", "gpg", "rpo")
KINDS = [kind if kind in SEAMS else pytest.param(kind, marks=pytest.mark.slow) for kind in METHODS]


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_and_resumes_bit_for_bit(learning: Learning, model: Path, kind: str) -> None:
    straight, again = resumed(learning(kind, "one"), learning(kind, "two"))
    assert weights(again) == weights(straight) != (model / "model.safetensors").read_bytes()
    assert rows(again) == rows(straight)
    assert rollouts(again) == rollouts(straight)
    assert not any(row.get("skipped_updates") for row in rows(straight))
    known = documented("metrics.md")
    own = {name for row in rows(straight) for name in row if not any(fnmatch(name, pattern) for pattern in known)}
    assert {name for name in own if f"`{name}`" not in page_of(kind)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_every_method_trains_adapters(learning: Learning, kind: str) -> None:
    lora = ("model.lora.rank=2", "train.steps=2")
    folder = train(learning(kind, "run", *lora)).folder
    assert any(tensor.abs().max() > 0 for name, tensor in load_file(folder / ADAPTER).items() if "lora_B" in name)
    AutoModelForCausalLM.from_pretrained(folder / "final")


def test_stored_pairs_train_and_resume_bit_for_bit(learning: Learning, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"Say {i}.", "chosen": f"{i}!", "rejected": f"{i + 1}, no"} for i in range(7)]
    file.write_text("\n".join(map(json.dumps, lines)))
    pairs = (f"data.pairs={file}", "rollout.max_new_tokens=20")
    straight, again = resumed(learning("rpo", "one", *pairs), learning("rpo", "two", *pairs))
    assert weights(again) == weights(straight) != (model / "model.safetensors").read_bytes()
    assert rows(again) == rows(straight)
    assert not any("eval/accuracy" in row for row in rows(straight))
    assert rows(straight)[-1]["rewards/accuracies"] >= rows(straight)[0]["rewards/accuracies"]
    with pytest.raises(ConfigError, match=r"data\.pairs: this method learns from its own samples"):
        train(learning("grpo", "three", *pairs))
