r"""From your own problems and your own reward to a trained model: the script that docs/tutorial.md walks through.

About a minute on two cores, with the bundled model:

    python examples/tutorial.py tutorial

It leaves everything in the folder that it is given.
"""

import argparse
import json
import random
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

from edge_grpo.base.records import Problem
from edge_grpo.data.arithmetic import reduce, solution
from edge_grpo.rewards import grade_answer

SETTINGS = """\
data:
  path: chosen.jsonl
  eval_path: held_out.jsonl
  fields: {prompt: question, answer: final, solution: worked}
reward:
  function: "THIS_FILE:reward"
  function_parts: [accuracy, progress]
method: edge_grpo
train: {steps: 12}
run: {dir: run}
"""


def write_problems(folder: Path, count: int) -> None:
    """One problem a line, none twice, a fifth of them held out. The column names are ours; SETTINGS maps them."""
    rng = random.Random(0)
    expressions: dict[str, None] = {}
    while len(expressions) < count:
        others = rng.choice([1, 2, 3, 4, 5])
        expression = str(rng.randint(1, 9)) + "".join(rng.choice("+-") + str(rng.randint(1, 9)) for _ in range(others))
        expressions[expression] = None
    rows = []
    for expression in expressions:
        worked = solution(expression)
        final = worked.rpartition("{")[2].rstrip("}")
        rows.append({"question": f"Compute {expression}.", "final": final, "worked": worked})
    for name, part in (("problems", rows[count // 5 :]), ("held_out", rows[: count // 5])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def value(expression: str) -> str:
    """The value of a chain of additions and subtractions: data from a model, so it is read, never run."""
    while re.fullmatch(r"-?\d{1,3}([+-]\d{1,3})+", expression):
        expression = reduce(expression)
    return expression


def reward(completions: list[str], problems: list[Problem]) -> list[dict[str, float]]:
    """1 for the right answer, and up to 0.5 for the share of lines that still have the right value."""
    rewards = []
    for text, problem in zip(completions, problems, strict=True):
        _, correct = grade_answer(text, problem.answers)
        lines = re.findall(r"^=(.{1,60})$", text, re.MULTILINE)
        kept = sum(value(line) == problem.answers[0] for line in lines)
        progress = 0.5 * kept / len(lines) if lines else 0.0
        rewards.append({"accuracy": float(correct), "progress": progress, "correct": float(correct)})
    return rewards


def edge_grpo(words: str, folder: Path) -> None:
    """A command, as typed in a terminal in that folder."""
    print(f"$ edge-grpo {words}", flush=True)
    subprocess.run([sys.executable, "-m", "edge_grpo", *shlex.split(words)], cwd=folder, check=True)


def screen(folder: Path) -> None:
    """Keep the problems that the model solves sometimes, but not always."""
    edge_grpo("screen problems.jsonl settings.yaml --samples 8 --keep-rate 0.125:0.875 --out chosen.jsonl", folder)


def learn(folder: Path) -> None:
    """Train on them; the run's folder is called run."""
    edge_grpo("train settings.yaml", folder)


def watch(run: Path) -> None:
    """Count the kinds of groups: as sampled, as trained, and as they would be if only the answer counted."""
    from edge_grpo.report.groups import kind_of, near_bound
    from edge_grpo.runs import rollouts

    def kinds(reward: str, verdict: str) -> str:
        groups: dict[tuple[int, int], list[tuple[float, bool]]] = {}
        for row in rollouts(run).to_pylist():
            right = row[verdict] == "correct"
            groups.setdefault((row["step"], row["group"]), []).append((row[reward] if reward else right, right))
        counts = Counter(kind_of(*zip(*group, strict=True), near=near_bound([0, 1.5])) for group in groups.values())
        return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())

    print("by the answer alone:", kinds("", "verdict_before"))
    print("with partial credit:", kinds("reward_before", "verdict_before"))
    print("after corrections:  ", kinds("reward", "verdict"))


def evaluate(folder: Path) -> None:
    """Before and after, on the same held-out problems, and the difference with an interval."""
    edge_grpo("eval bundled settings.yaml --suite held_out.jsonl --out before", folder)
    edge_grpo("eval run --suite held_out.jsonl --out after", folder)
    edge_grpo("compare-models before after", folder)


def use(model: Path) -> None:
    """The result is a model folder like any other."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model)
    turn = [{"role": "user", "content": "Compute 7-2+8-5."}]
    inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = policy.generate(**inputs, max_new_tokens=64, do_sample=False)
    print(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main(name: str, count: int = 500, steps: int = 12) -> None:
    """The whole tutorial, in a new folder."""
    folder = Path(name).absolute()
    if folder.exists():
        sys.exit(f"{folder} is there already; name a new folder")
    folder.mkdir(parents=True)
    write_problems(folder, count)
    settings = SETTINGS.replace("THIS_FILE", str(Path(__file__).resolve())).replace("steps: 12", f"steps: {steps}")
    (folder / "settings.yaml").write_text(settings, encoding="utf-8")
    screen(folder)
    learn(folder)
    watch(folder / "run")
    evaluate(folder)
    use(folder / "run" / "final")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a new folder for everything that is written")
    main(parser.parse_args().folder)
