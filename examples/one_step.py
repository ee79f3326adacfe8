"""One whole training step of EDGE-GRPO, from problems to new weights, without command line or run folder.

python examples/one_step.py
"""

import random

from edge_grpo.base.metrics import means
from edge_grpo.base.world import World
from edge_grpo.config.tree import load_config
from edge_grpo.data.problems import load_train_eval
from edge_grpo.models.loading import load_policy
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.open import open_sampler
from edge_grpo.training.batching import batch_of
from edge_grpo.training.collect import Collector, stream
from edge_grpo.training.update import Updater, make_optimizer


def main() -> None:
    """Sample, grade, correct, score, shape, update."""
    config = load_config()  # all defaults: the bundled model, built-in arithmetic, EDGE-GRPO
    method, rollout = config.method, config.rollout
    policy = load_policy(config.model)
    problems, _ = load_train_eval(config.data, num_eval=0, seed=0)

    with open_sampler(config, policy=policy) as sampler:
        # Problems become prompt tokens; from here on token ids are the truth, text is for grading and display.
        prompts = sampler.encode(problems.problems, max_new_tokens=rollout.max_new_tokens).prompts

        # Sample 4 x 8 completions, grade them, and carry out the corrections that the method plans.
        collector = Collector(
            sampler,
            method,
            sampling=Sampling.of(rollout),
            group_size=8,
            seed=0,
        )
        collected = collector.collect(stream(prompts, seed=0, start=0), step=0, num_groups=4)
        batch = batch_of(method.arrange(collected.groups), sampler)

    updater = Updater(
        policy=policy,
        optimizer=make_optimizer(policy, config.train),
        method=method,
        train=config.train,
        temperature=rollout.temperature,
        max_new_tokens=rollout.max_new_tokens,
        world=World(),
    )
    scored = updater.score(batch)  # log-probs and entropy of every token, no gradient
    signal = updater.signal(scored)  # advantages: group-normalized, divided by relative entropy
    figures = means(collected.metrics | signal.metrics | updater.step(scored, signal, step=0))

    row = random.Random(0).choice([row for group in collected.groups for row in group.rows if row.first])
    print("a corrected completion:", repr(policy.tokenizer.decode(row.rollout.completion_ids)))
    for name in ("accuracy", "collapse/before", "collapse/after", "advantage/max_abs", "loss", "grad_norm"):
        print(f"{name:20s} {figures[name]:.4f}")


if __name__ == "__main__":
    main()
