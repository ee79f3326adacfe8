"""``edge-grpo push``: what goes, what stays, what the card says, and what happens without a token or a network."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import Command

from edge_grpo.base.errors import EngineError
from edge_grpo.cli.push import send, stage

TINY = ["method=grpo", "rollout.prompts_per_step=2", "rollout.group_size=2", "rollout.max_new_tokens=8", "eval.size=4",
        "eval.every=1", "data.arithmetic.size=20", "reward.workers=1", "train.steps=2", "train.checkpoint_every=1",
        "run.trackers=[]", "train.learning_rate=0.01"]  # fmt: skip


@pytest.fixture(scope="module")
def run(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edge_grpo.config.tree import load_config
    from edge_grpo.training.loop import train

    folder = tmp_path_factory.mktemp("push") / "r"
    judge = folder.with_name("judge.py")
    judge.write_text("def reward(completions, problems):\n    return [len(set(each)) for each in completions]\n")
    words = [*TINY, f"model.path={model}", f"run.dir={folder}", f"reward.function={judge}:reward"]
    folder = train(load_config(None, words)).folder
    (folder / "final/optimizer.pt").write_bytes(b"a pickle")
    (folder / "final/model.py").write_text("import os")
    return folder


@dataclass
class Recorded:
    """A hub that records what it is asked, or refuses."""

    asked: list[tuple[str, Any]] = field(default_factory=list)
    error: OSError | None = None

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        if self.error:
            raise self.error
        self.asked.append((repo_id, private))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        names = sorted(path.name for path in Path(folder_path).rglob("*") if path.is_file())
        self.asked.append((commit_message, names))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_the_final_model_goes_and_nothing_that_could_run_or_tell(run: Path, tmp_path: Path) -> None:
    upload, hub = stage(run, tmp_path / "up", None), Recorded()
    assert send(hub, upload, "me/mine", private=True) == "https://hub/me/mine"
    (repo, private), (message, names) = hub.asked
    assert (repo, private, message) == ("me/mine", True, "Model after step 2, by edge-grpo")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert not {"progress.json", "optimizer.pt", "model.py"} & set(names)
    assert set(upload.left_out) == {"optimizer.pt", "model.py"}
    assert not [name for name in names if name.endswith((".parquet", ".jsonl", ".pt", ".py"))]


def test_the_card_holds_the_runs_own_numbers(run: Path, tmp_path: Path) -> None:
    stage(run, tmp_path / "up", None, license_name="mit")
    text = (tmp_path / "up/README.md").read_text("utf-8")
    _, head, _ = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "mit"
    measured = rows(run)
    for row in measured:
        accuracy, low, high = (f"{row[f'eval/accuracy{end}']:.1%}" for end in ("", "_low", "_high"))
        assert f"| {row['step']} | {accuracy} | {low} to {high} | 4 |" in text
    before = sum(row["collapse/before"] for row in measured[1:]) / 2
    assert f"mean of 2 steps: {before:.1%} as sampled" in text
    assert re.search(r"Versions: edge-grpo \S+, python 3\.\d+", text)


def test_a_checkpoint_goes_with_its_own_card(run: Path, tmp_path: Path) -> None:
    upload = stage(run, tmp_path / "up", 1, rollouts=True)
    text = (tmp_path / "up/README.md").read_text("utf-8")
    assert (upload.step, "| steps | 1 |" in text, "\n| 2 |" in text) == (1, True, False)
    assert len(list((tmp_path / "up/rollouts").glob("*.parquet"))) == 2
    first, last = (folder / "model.safetensors" for folder in (tmp_path / "up", run / "final"))
    assert first.read_bytes() != last.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["up"]


def test_a_dry_run_writes_and_lists_and_asks_no_hub(command: Command, run: Path) -> None:
    code, out, _ = command("push", str(run), "me/mine", "--best", "--dry-run", "up")
    assert code == 0
    best = max(rows(run)[1:], key=lambda row: (row["eval/accuracy"], -row["step"]))["step"]
    assert out.startswith(f"step {best}: ")
    assert "would be uploaded to me/mine (written to up)" in out
    size = Path("up/model.safetensors").stat().st_size
    assert re.search(rf"^ +{size:,}  model.safetensors$", out, re.M)
    assert "the card names no license" in out
    assert 'AutoTokenizer.from_pretrained("me/mine")' in Path("up/README.md").read_text("utf-8")


def test_a_hub_that_refuses_is_one_line(run: Path, tmp_path: Path) -> None:
    hub = Recorded(error=ConnectionError("403\nForbidden: \x1b[31mno"))
    with pytest.raises(
        EngineError, match=r"^push: me/mine was not uploaded \(ConnectionError: 403 Forbidden: \[U\+001B\]"
    ):
        send(hub, stage(run, tmp_path / "up", None), "me/mine", private=False)


def test_a_mistake_is_one_line(command: Command, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    (tmp_path / "there").mkdir()
    for words, message in (
        (("nowhere", "me/mine"), "no run in nowhere"),
        ((str(run), "mine"), "got 'mine', wanted a repository such as me/my-model"),
        ((str(run), "me/mine"), "no Hugging Face token; run `hf auth login`"),
        ((str(run), "me/mine", "--best", "--step", "1"), "give one of them"),
        ((str(run), "me/mine", "--dry-run", "there"), "there exists; name a new folder"),
        ((str(run), "me/mine", "--step", "9", "--dry-run", "up"), "no checkpoint of step 9"),
    ):
        code, _, err = command("push", *words)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
