"""Examples of every command, for the end of its ``--help``."""

from typing import Final

__all__ = ["EXAMPLES", "epilog"]

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "train": (
        "edge-grpo train",
        "edge-grpo train configs/dapo.yaml train.steps=40 train.learning_rate=5e-5",
        "edge-grpo train --resume RUN_DIR",
    ),
    "plan": (
        "edge-grpo plan configs/dapo.yaml rollout.group_size=16",
        "edge-grpo plan CONFIG.yaml --probe --problems 16",
        "edge-grpo plan CONFIG.yaml --from RUN_DIR --price-per-hour 2.5",
    ),
    "doctor": ("edge-grpo doctor", "edge-grpo doctor CONFIG.yaml"),
    "report": (
        "edge-grpo report RUN_DIR",
        "edge-grpo report RUN_DIR --watch",
        "edge-grpo report RUN_DIR OTHER_RUN --out both.html",
    ),
    "compare": ("edge-grpo compare RUN_DIR OTHER_RUN",),
    "diagnose": (
        "edge-grpo diagnose RUN_DIR --html page.html",
        "edge-grpo diagnose FILE.jsonl --reward score --group uid",
    ),
    "eval": (
        "edge-grpo eval RUN_DIR/final",
        "edge-grpo eval MODEL --suite configs/suites/math.yaml --samples 8",
    ),
    "export": ("edge-grpo export RUN_DIR MODEL_OUT --step 20",),
    "push": (
        "edge-grpo push RUN_DIR OWNER/NAME --private",
        "edge-grpo push RUN_DIR OWNER/NAME --best --dry-run FOLDER_OUT",
    ),
    "serve": ("edge-grpo serve MODEL --port 8001",),
    "compare-models": ("edge-grpo compare-models MODEL_A MODEL_B --suite FILE.jsonl",),
    "screen": ("edge-grpo screen FILE.jsonl --model MODEL --samples 8 --keep-rate 0:0.5 --out hard.jsonl",),
    "grade": ("edge-grpo grade FILE.jsonl --out verdicts.jsonl",),
    "tune": ("edge-grpo tune configs/tune/arithmetic.yaml --trials 12",),
    "show-config": (
        "edge-grpo show-config configs/grpo.yaml train.steps=7",
        "edge-grpo show-config model.lora",
    ),
    "methods": ("edge-grpo methods", "edge-grpo methods grpo"),
    "settings": (
        "edge-grpo settings rollout",
        "edge-grpo settings method.grpo.beta",
        "edge-grpo settings --schema",
    ),
    "lld": ("edge-grpo lld train.learning_rate=1e-5 --problems 50",),
    "uplift": ("edge-grpo uplift --after RUN_DIR/final rollout.group_size=32",),
    "make-base": ("edge-grpo make-base FOLDER_OUT", "edge-grpo make-base FOLDER_OUT --images"),
}
"""Words in capitals are the reader's to fill in."""


def epilog(command: str) -> str:
    """The examples of a command as Markdown."""
    return "\n\n".join(["Examples:", *(f"`{each}`" for each in EXAMPLES[command])])
