"""Does a refactor change numbers? Five training steps of every method, as digests of the final weights.

    make same-numbers ARGS="--save before.json"        before the change
    make same-numbers ARGS="--compare before.json"     after it

Each case trains through the command line with one thread and yields the SHA-256 of `final/model.safetensors` and the
rows of `metrics.jsonl` without timings. Both must be equal to the last bit on one machine with one version of PyTorch.
Exit code 1: a case differs; 2: a case failed. About ten minutes on two idle cores; `--only grpo,rpo` runs the cases
whose names start with `grpo` or `rpo`.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_grpo.methods import METHODS

SMALL = (
    "train.steps=5",
    "train.learning_rate=3e-4",
    "rollout.prompts_per_step=6",
    "rollout.group_size=6",
    "eval.every=0",
    "eval.size=24",
)
TWO_BY_TWO = ("train.passes=2", "train.mini_batches=2", "train.micro_batch_rows=16", "rollout.temperature=0.8")
PAIRS = "pairs.jsonl"
VARIANTS: dict[str, tuple[str, ...]] = {  # settings that take other branches than a method's defaults
    "demo": ("rollout.prompts_per_step=16", "rollout.group_size=8", "train.learning_rate=1e-4"),
    "lora": ("model.lora.rank=4", "method.beta=0.05"),
    "edge_grpo balanced": ("method.correction.amount=balanced",),
    "edge_grpo likelihood": ("method.correction.injected=likelihood", *TWO_BY_TWO),
    "edge_grpo credited": ("method.correction.wrong_prefix=credited", "method.correction.guard=false"),
    "edge_grpo no correction": ("method.correction.amount=none",),
    "edge_grpo no entropy": ("method.eda.enabled=false",),
    "edge_grpo sampled entropy": ("method.eda.over=sampled", "method.beta=0.1", *TWO_BY_TWO),
    "edge_grpo top-up": ("method.top_up.max_rounds=2",),
    "grpo all modifiers": (
        "method=grpo",
        "method.beta=0.05",
        "method.kl_max=5",
        "method.entropy_coef=0.01",
        "method.entropy_quantile=0.5",
        "method.off_policy_threshold=0.01",
        "method.sampler_correction=sequence_truncate",
        "method.mask_unfinished=true",
        "method.delta=3",
        "method.scale=batch",
        *TWO_BY_TWO,
    ),
    "grpo objectives": ("method=grpo", "method.objectives=normalize_then_sum", "method.sampler_correction=token_mask"),
    "mgrpo per question": (
        "method=mgrpo",
        "method.l2_grouping=per_question",
        "method.l2_filter=sample_success",
        "method.beta=0.05",
        *TWO_BY_TWO,
    ),
    "mgrpo raw": ("method=mgrpo", "method.std=none", "method.l2_filter=none", "method.entropy_coef=0.01"),
    "nthr full": ("method=nthr", "method.include_self=false", "method.vocabulary=full", "method.eta=p"),
    "share_grpo rows": (
        "method=share_grpo",
        "method.every_variant=false",
        "method.statistics=rows",
        "method.weighting=answers",
    ),
    "unlikeliness sum": (
        "method=unlikeliness",
        "method.likelihood=sum",
        "method.wrong_rows=dropped",
        "method.aggregation=rows",
    ),
    "disco squared": ("method=disco", "method.penalty=squared", "method.kl_estimator=k3", "method.tau=1"),
    "raft release": (
        "method=raft",
        "method.rejected=zero_advantage",
        "method.aggregation=tokens",
        "method.accept=positive",
        "method.reward_values=run",
        "method.beta=0.001",
    ),
    "reinforce centred": ("method=reinforce", "method.center=true", "method.scale=true", "method.delta=3"),
    "reinforce_rej wrong": ("method=reinforce_rej", "method.remove=all_wrong", "method.rejected=zero_advantage"),
    "gpg tokens": ("method=gpg", "method.debias=tokens", "method.scale=group", "method.aggregation=rows"),
    "rpo robust": ("method=rpo", "method.likelihood=averaged", "method.preference=robust", "method.per_token=true",
                   "method.label_smoothing=0.1"),
    "rpo pairs": ("method=rpo", f"data.pairs={PAIRS}", "eval.at_start=false"),
}  # fmt: skip

Result = dict[str, Any]


def cases(only: str) -> dict[str, tuple[str, ...]]:
    """Name -> settings; every method with its defaults and with two passes of two updates, and the variants."""
    every: dict[str, tuple[str, ...]] = {kind: (f"method={kind}",) for kind in METHODS}
    every |= {f"{kind} 2x2": (f"method={kind}", *TWO_BY_TWO) for kind in METHODS}
    every |= VARIANTS
    return {name: words for name, words in every.items() if name.startswith(tuple(only.split(",")))}


def pairs() -> str:
    """Stored pairs for RPO, as JSONL."""
    sums = ((n, n % 7 + 1, n + n % 7 + 1) for n in range(1, 49))
    rows = (
        {"prompt": f"Compute {a}+{b}.", "chosen": f"={c}\n\\boxed{{{c}}}", "rejected": f"\\boxed{{{c + 1}}}"}
        for a, b, c in sums
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def run(words: tuple[str, ...]) -> Result:
    """Train one case in a folder of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PAIRS).write_text(pairs(), encoding="utf-8")
        command = [sys.executable, "-m", "edge_grpo", "train", *SMALL, *words, "run.dir=run"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
        weights = (Path(folder) / "run/final/model.safetensors").read_bytes()
        lines = (Path(folder) / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]
    return {"final": hashlib.sha256(weights).hexdigest(), "metrics": rows}


def differences(before: Result, after: Result) -> list[str]:
    """What differs: `final`, `rows` (their number), or the names of figures."""
    found = ["final"] if before.get("final") != after.get("final") else []
    old, new = before.get("metrics", []), after.get("metrics", [])
    found += ["rows"] if len(old) != len(new) else []
    names = {
        name for a, b in zip(old, new, strict=False) for name in {*a, *b} if repr(a.get(name)) != repr(b.get(name))
    }
    return found + sorted(names)


def platform_of_run() -> Mapping[str, str]:
    """What else the bytes depend on."""
    return {"torch": version("torch"), "transformers": version("transformers"), "machine": platform.machine()}


def main() -> int:
    """Run the cases; save or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--save", metavar="FILE.json", help="write the results")
    parser.add_argument("--compare", metavar="FILE.json", help="compare with results saved before")
    parser.add_argument("--only", default="", help="beginnings of case names, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once")
    arguments = parser.parse_args()
    before = json.loads(Path(arguments.compare).read_text(encoding="utf-8")) if arguments.compare else None
    if before and before["platform"] != platform_of_run():
        print(f"caution: saved with {before['platform']}, running with {platform_of_run()}")
    chosen, results, bad = cases(arguments.only), {}, []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for name, result in zip(chosen, pool.map(run, chosen.values()), strict=True):
            results[name] = result
            note = ""
            if before and "error" not in result:
                saved = before["cases"].get(name)
                changed = differences(saved, result) if saved else []
                note = "new" if not saved else f"DIFFERS: {', '.join(changed[:8])}" if changed else "same"
                bad += [name] if changed else []
            print(f"{name:<28} {result.get('final', 'FAILED')[:16]}  {note}{result.get('error', '')}", flush=True)
    if arguments.save:
        content = {"platform": platform_of_run(), "cases": results}
        Path(arguments.save).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, result in results.items() if "error" in result]
    missing = sorted(set(before["cases"]) - set(results)) if before and not arguments.only else []
    print(f"{len(results)} cases, {len(failed)} failed" + (f", {len(bad)} differ" if before else ""))
    if missing:
        print(f"no longer run: {', '.join(missing)}")
    return 2 if failed else int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
