"""Rollout files in the formats of others, written as their sources write them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rewards = Sequence[float | None]


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def messages(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def trl(
    folder: Path, step: int, groups: Sequence[tuple[str, Rewards]], *, chat: bool = False, **extra: Sequence[Any]
) -> Path:
    """``GRPOTrainer.log``: one file a step; the rewards of two functions, of which the second is always 0.5."""
    rows: list[dict[str, Any]] = []
    for prompt, rewards in groups:
        known = [reward for reward in rewards if reward is not None]
        mean = sum(known) / len(known) if known else 0.0
        for number, reward in enumerate(rewards):
            answer = f"answer {number} to {prompt}"
            rows.append(
                {
                    "step": step,
                    "prompt": messages(prompt) if chat else prompt,
                    "completion": messages(answer, "assistant") if chat else answer,
                    "accuracy_reward": float("nan") if reward is None else reward,
                    "format_reward": float("nan") if reward is None else 0.5,
                    "advantage": 0.0 if reward is None else reward - mean,
                }
            )
    for name, values in extra.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
            row["advantage"] = row.pop("advantage")
    return parquet(folder / "completions" / f"completions_{step:05d}.parquet", rows)


def verl(folder: Path, step: int, groups: Sequence[tuple[str, Rewards]], *, acc: bool = True) -> Path:
    """``RayPPOTrainer._dump_generations``: one file a step, its rows reordered."""
    rows: list[dict[str, Any]] = [
        {
            "input": f"user\n{prompt}\nassistant\n",
            "output": f"answer {number}",
            "gts": "4",
            "score": reward,
            "step": step,
            **({"acc": reward > 0} if acc and reward is not None else {}),
        }
        for prompt, rewards in groups
        for number, reward in enumerate(rewards)
    ]
    return jsonl(folder / f"{step}.jsonl", rows[::2] + rows[1::2])


def openrlhf(path: Path, groups: Sequence[tuple[str, Rewards]]) -> Path:
    """``batch_rm_inference`` after ``batch_generate_vllm`` with ``best_of_n``: passes over all prompts."""
    passes = zip(*(rewards for _, rewards in groups), strict=True)
    return jsonl(
        path,
        [
            {"input": prompt, "output": f"answer {number}", "reward": reward}
            for number, rewards in enumerate(passes)
            for (prompt, _), reward in zip(groups, rewards, strict=True)
        ],
    )


def trace(prompt: str, group: str, reward: float | None, *, number: int = 0, old: bool = False) -> dict[str, Any]:
    """A verifiers trace: as of 2026 or, ``old``, with plain rewards, and the group beside them."""
    nodes = [
        {"parent": None, "message": {"role": "user", "content": prompt}, "sampled": False, "token_ids": [1, 2]},
        {
            "parent": 0,
            "message": {"role": "assistant", "content": f"answer {number}"},
            "sampled": True,
            "token_ids": [3, 4, 5],
            "mask": [False, True, True],
        },
    ]
    if old:
        rewards: dict[str, Any] = {} if reward is None else {"correct": reward}
        errors = [{"type": "Timeout", "message": ""}] if reward is None else []
        return {"nodes": nodes, "rewards": rewards, "errors": errors, "task": {"idx": 7}, "group_id": group}
    return {
        "version": 1,
        "task": {"type": "T", "data": {"prompt": prompt}, "key": "k"},
        "agent": {"name": "agent", "trainable": True},
        "nodes": nodes,
        "calls": [{"node": 1, "usage": {"prompt_tokens": 2, "completion_tokens": 3}}],
        "rewards": {"correct": None if reward is None else {"score": reward, "weight": 2.0}, "other": None},
        "ok": reward is not None,
        "errors": [],
        "info": {"group_id": group, "env_name": "e", "policy_version": 0},
    }


def prime_rl(folder: Path, step: int, groups: Sequence[tuple[str, Rewards]], *, part: str = "all") -> Path:
    """The traces of a step, of its training."""
    return jsonl(
        folder / "rollouts" / f"step_{step}" / "train" / part / "traces.jsonl",
        [
            trace(prompt, f"{step}-{index}", reward, number=number)
            for index, (prompt, rewards) in enumerate(groups)
            for number, reward in enumerate(rewards)
        ],
    )
