"""A reward function equal to the built-in reward, which signals the command while that waits for grades.

``FAULT_GRADING`` in the environment holds the command's process, the file for notes and the hits, as JSON.
"""

import json
import os
import time
from collections.abc import Sequence

from edge_grpo.base.records import Problem
from edge_grpo.rewards import boxed_answer

CALLS: list[int] = []


def reward(completions: Sequence[str], problems: Sequence[Problem]) -> list[dict[str, float]]:
    """Format and accuracy of whole numbers."""
    CALLS.append(len(completions))
    job = json.loads(os.environ["FAULT_GRADING"])
    with open(job["log"], "a") as log:
        log.write(json.dumps({"graded": len(CALLS)}) + "\n")
        for hit in job["hits"]:
            if (hit["point"], hit["n"]) == ("grading", len(CALLS)):
                log.write(json.dumps({"reached": "grading", "at": time.monotonic()}) + "\n")
                log.flush()
                for number in hit["signals"]:
                    os.kill(os.getpid() if hit.get("to") == "worker" else job["pid"], number)
    answers = map(boxed_answer, completions)
    return [
        {"format": float(answer is not None), "accuracy": float(answer == problem.answer)}
        for answer, problem in zip(answers, problems, strict=True)
    ]
