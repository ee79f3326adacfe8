"""One whole training step of EDGE-GRPO, from prompts to new weights, without command line or run folder.

python examples/one_step.py
"""

import random

from edge_grpo.base.metrics import means
from edge_grpo.config.sections import ModelSettings, TrainSettings
from edge_grpo.data.arithmetic import ArithmeticSettings, problems
from edge_grpo.data.prompts import encode_problems
from edge_grpo.data.settings import DataSettings
from edge_grpo.evaluation.heldout import grader
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.models.loading import load_policy, stop_token_ids
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.sampler import Prompted
from edge_grpo.training.batching import collate
from edge_grpo.training.collect import Collector, stream
from edge_grpo.training.distributed import World
from edge_grpo.training.update import Updater, make_optimizer


def main() -> None:
    """Sample, grade, correct, score, shape, update."""
    method, sampling, train = EdgeGrpo(), Sampling(max_new_tokens=64), TrainSettings()
    policy = load_policy(ModelSettings())  # the model in this package
    stop_ids = stop_token_ids(policy)

    # Problems become prompt tokens; from here on token ids are the truth, text is for grading and display.
    encoded = encode_problems(policy.tokenizer, problems(ArithmeticSettings(), count=100), DataSettings())
    prompts = [Prompted(*pair) for pair in zip(encoded.problems, encoded.prompt_ids, strict=True)]

    with Rewards(RewardSettings()) as rewards:
        # Sample 4 x 8 completions, grade them, and carry out the corrections that the method plans.
        collector = Collector(
            engine=DecodeEngine(policy, stop_ids=stop_ids, pad_id=stop_ids[0]),
            grader=grader(policy.tokenizer, rewards),
            method=method,
            tokenizer=policy.tokenizer,
            sampling=sampling,
            group_size=8,
            stop_id=stop_ids[0],
            seed=0,
        )
        collected = collector.collect(stream(prompts, seed=0, start=0), step=0, num_groups=4)
        batch = collate(
            method.arrange(collected.groups),
            parts=rewards.part_names,
            weights=rewards.part_weights,
            pad_id=stop_ids[0],
        )

    updater = Updater(
        policy=policy,
        optimizer=make_optimizer(policy, train),
        method=method,
        train=train,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        world=World(),
    )
    scored = updater.score(batch)  # log-probs and entropy of every token, no gradient
    signal = updater.shape(scored)  # advantages: group-normalised, divided by relative entropy
    figures = means(collected.metrics | signal.metrics | updater.step(scored, signal, step=0))

    row = random.Random(0).choice([row for group in collected.groups for row in group.rows if row.first])
    print("a corrected completion:", repr(policy.tokenizer.decode(row.rollout.completion_ids)))
    for name in ("accuracy", "collapse/before", "collapse/after", "advantage/max_abs", "loss", "grad_norm"):
        print(f"{name:20s} {figures[name]:.4f}")


if __name__ == "__main__":
    main()
