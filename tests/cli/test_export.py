"""``edge-grpo export``, and models named by their run, checkpoint or adapter."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support import Command

TINY = ["method=grpo", "rollout.prompts_per_step=2", "rollout.group_size=2", "rollout.max_new_tokens=8", "eval.size=4",
        "eval.every=0", "eval.at_start=false", "data.arithmetic.size=20", "reward.workers=1", "train.steps=2",
        "train.checkpoint_every=1", "run.trackers=[]"]  # fmt: skip


@pytest.fixture(scope="module", params=[(), ("model.lora.rank=2", "model.lora.targets=[q_proj,lm_head]")])
def run(model: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A finished run, of all weights or of adapters."""
    from edge_grpo.config.tree import load_config
    from edge_grpo.training.loop import train

    folder = tmp_path_factory.mktemp("export") / "r"
    judge = folder.with_name("judge.py")
    judge.write_text("def reward(completions, problems):\n    return [len(set(each)) for each in completions]\n")
    words = [*TINY, *request.param, f"model.path={model}", f"run.dir={folder}", "train.learning_rate=0.01",
             f"reward.function={judge}:reward"]  # fmt: skip
    return train(load_config(None, words)).folder


def test_the_newest_checkpoint_is_exported_as_the_final_model(command: Command, run: Path) -> None:
    code, out, err = command("export", str(run), "out")
    assert (code, err) == (0, "")
    assert re.search(r"^wrote out: step 2 of .*r, \d+ sampled tokens\n$", out)
    names = {path.name for path in (run / "final").iterdir()}
    assert {path.name for path in Path("out").iterdir()} == names - {"progress.json"}
    for name in ("model.safetensors", "config.json", "README.md"):
        assert Path("out", name).read_bytes() == (run / "final" / name).read_bytes()
    code, out, _ = command("export", str(run), "--step", "1", "first")
    assert code == 0
    assert Path("first/model.safetensors").read_bytes() != (run / "final/model.safetensors").read_bytes()
    assert "| steps | 1 |" in Path("first/README.md").read_text()
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_a_mistake_is_one_line(command: Command, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, "cut")
    weights = Path("cut/checkpoints/step_000002/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "there").mkdir()
    Path("file").touch()
    for words, message in (
        (("nowhere", "out"), "no run in nowhere"),
        ((str(run), "there"), "there exists; name a new folder"),
        ((str(run), "file/out"), "file/out cannot be written (.*); name another folder"),
        ((str(run), "out", "--step", "7"), "no checkpoint of step 7 in .*; it holds those of steps 1, 2"),
        (("cut", "out"), r"step_000002: damaged \(weights.safetensors"),
    ):
        code, _, err = command("export", *words)
        assert code == 2
        assert re.search(message, err)
        assert err.count("\n") == 1
    assert not Path("out").exists()


def test_hidden_folders_of_the_user_are_left_alone(command: Command, run: Path) -> None:
    (own := Path(".out")).mkdir()
    (own / "mine").touch()
    assert command("export", str(run), "out")[0] == 0
    assert (own / "mine").exists()


def test_adapters_are_not_put_on_another_base(command: Command, model: str, tmp_path: Path) -> None:
    from edge_grpo.config.tree import load_config
    from edge_grpo.training.loop import train

    base = Path(shutil.copytree(model, tmp_path / "base"))
    words = [*TINY, "model.lora.rank=2", f"model.path={base}", f"run.dir={tmp_path / 'r'}"]
    run = train(load_config(None, words)).folder
    weights = load_file(base / "model.safetensors")
    save_file({name: weight + 0.1 for name, weight in weights.items()}, base / "model.safetensors", {"format": "pt"})
    for words in (["export", str(run), "out"], ["eval", str(run / "checkpoints/step_000002"), "eval.size=2"]):
        code, _, err = command(*words)
        assert code == 2
        assert re.search(r"step_000002' holds adapters, and their base model '.*base' changed since", err)
    assert not Path("out").exists()


def test_a_run_its_checkpoint_and_its_adapter_are_evaluated_with_its_settings(command: Command, run: Path) -> None:
    places = ["", "final", "checkpoints/step_000002", *(["final/adapter"] if (run / "final/adapter").exists() else [])]
    found = []
    for place in places:
        out_dir = place.replace("/", "-") or "run"
        code, out, err = command("eval", "--model", str(run / place), "--out", out_dir)
        assert (code, err) == (0, "")
        assert "ran out of 8 tokens" in out
        found.append(json.loads(Path(out_dir, "results.json").read_text())["benchmarks"]["held-out"])
    for each in found:
        assert each["scores"] == found[0]["scores"]
        assert each["greedy"]["entropy"] == pytest.approx(found[0]["greedy"]["entropy"], rel=1e-4)


def test_a_run_without_a_final_model_says_how_to_get_one(command: Command, run: Path) -> None:
    shutil.copytree(run, "cut")
    shutil.rmtree("cut/final")
    for place in ("cut", "cut/final"):
        code, _, err = command("eval", "--model", place)
        assert code == 2
        assert "cut has no final model yet" in err
        assert "edge-grpo export cut FOLDER" in err
        assert err.count("\n") == 1
    assert command("eval", "--model", "cut/checkpoints/step_000001", "eval.size=2")[0] == 0
