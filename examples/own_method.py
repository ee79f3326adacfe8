"""A custom method without a fork: REINFORCE with the batch's mean reward as the baseline.

    python examples/own_method.py runs/mine                   rerun it to resume a stopped run
    python examples/own_method.py runs/mine train.steps=40

A method is one frozen class with two functions. ``signal`` runs once per step, without gradients, and decides how
strongly each token is reinforced. ``loss`` runs once per micro-batch and returns its share of the update's loss: it
divides by ``totals`` over the whole update, so the split into micro-batches does not matter.
"""

import sys
from pathlib import Path
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.config.tree import load_config
from edge_grpo.methods import Method
from edge_grpo.trackers.console import PlainDisplay
from edge_grpo.training.loop import resume, train


@final
@settings
class Mine(Method):
    """REINFORCE: (reward - mean reward) times the log-likelihood of the completion."""

    kind: Literal["mine"] = "mine"
    scale: float = Field(default=1.0, gt=0)

    def signal(self, batch: Scored) -> Signal:
        """Give every token its row's centred reward."""
        advantages = self.scale * (batch.reward - batch.reward[batch.scorable].mean())
        return Signal(
            advantages=advantages[:, None].expand_as(batch.old_logprobs),
            mask=batch.mask,
            keep=batch.scorable,
            raw_advantages=advantages,
            row_advantages=advantages,
        )

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """The mean over the tokens of the update."""
        return -(x.advantages * x.logprobs)[x.mask].sum() / totals.tokens


if __name__ == "__main__":
    words = sys.argv[1:]  # [FOLDER] [key=value ...]
    folder = words.pop(0) if words and "=" not in words[0] else "runs/mine"
    config = load_config(None, ["train.steps=20", "eval.every=10", *words, f"run.dir={folder}"])
    method, display = Mine(scale=1.0), PlainDisplay()
    if (Path(folder) / "config.yaml").exists():
        result = resume(folder, config, method=method, display=display)  # the same method and settings, or more steps
    else:
        result = train(config, method=method, display=display)
    print(f"trained {result.steps} steps; see {result.folder}")
