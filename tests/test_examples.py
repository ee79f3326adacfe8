"""The examples that no other test runs."""

import os
import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import until

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_advantages_train_another_trainers_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(EXAMPLES / "in_your_trainer.py"))["main"]() > 0.9
    assert "right, advantages" in capsys.readouterr().out


@pytest.mark.slow
def test_one_step_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "one_step.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "a corrected completion:" in printed
    assert "grad_norm" in printed


# --- examples/slurm.sh, with stand-ins for Slurm and torchrun ---------------------------------------------------------

STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo node-a; echo node-b; else echo "$@" >> scontrol; fi',
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "torchrun": 'printf "%s\\n" "$@" > torchrun; trap "exit 143" TERM; echo $$ > pid; '
    "[ -e brief ] || while :; do sleep 0.02; done",
    "pkill": 'echo "$@" > pkill; kill -TERM "$(cat pid)"',
}


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Starts the batch script in an empty folder, as job 77."""
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    return lambda *words: subprocess.Popen(["bash", EXAMPLES / "slurm.sh", *words], cwd=tmp_path, env=environment)


def trained(folder: Path) -> list[str]:
    """The words after ``edge-grpo train``; torchrun's own options must be ones that it knows."""
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args((folder / "torchrun").read_text().splitlines())
    assert (found.nnodes, found.nproc_per_node, found.rdzv_endpoint) == ("2", "8", "node-a:29500")
    verb, *words = found.training_script_args
    assert (found.module, found.training_script, verb) == (True, "edge_grpo", "train")
    return list(words)


def test_the_slurm_job_starts_a_run_and_resumes_it(
    tmp_path: Path, batch: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    (tmp_path / "brief").touch()
    assert batch("one run", "c.yaml", "train.steps=3").wait(30) == 0
    assert trained(tmp_path) == ["c.yaml", "train.steps=3", "run.dir=one run"]
    (tmp_path / "one run").mkdir()
    (tmp_path / "one run/config.yaml").touch()
    assert batch("one run", "c.yaml", "train.steps=3").wait(30) == 0
    assert trained(tmp_path) == ["--resume", "one run"]
    assert not (tmp_path / "scontrol").exists()


def test_the_slurm_job_stops_before_its_limit_and_is_queued_again(
    tmp_path: Path, batch: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    job = batch("run", "c.yaml")
    until((tmp_path / "pid").exists)
    job.terminate()
    assert job.wait(30) == 143
    assert (tmp_path / "scontrol").read_text() == "requeue 77\n"
    pattern = (tmp_path / "pkill").read_text().strip().removeprefix("-TERM -f ")
    options = " ".join((tmp_path / "torchrun").read_text().splitlines())
    assert re.search(pattern + " ", f"/venv/bin/python /venv/bin/torchrun {options}")
    assert not re.search(pattern + " ", f"srun --kill-on-bad-exit=0 --wait=180 torchrun {options}")
