"""Which function computes which kind, and which kinds wait for their method."""

from collections.abc import Callable
from typing import Any

from golden.cases import Case, differences
from golden.handlers import edge_grpo, grpo, policy, rewards

Handler = Callable[[Case], dict[str, Any]]

HANDLERS: dict[str, Handler] = {
    **policy.HANDLERS,
    **grpo.HANDLERS,
    **edge_grpo.HANDLERS,
    **rewards.HANDLERS,
}

# Kinds whose method is not built yet. A kind moves from here into its handler file together with its method.
PENDING: dict[str, str] = {
    **dict.fromkeys(("disco.loss", "disco.update"), "DisCO"),
    **dict.fromkeys(("gpg.step", "gpg.loss"), "GPG"),
    **dict.fromkeys(("raft.loss", "raft.update"), "RAFT"),
    "mgrpo": "MGRPO",
    "nthr": "NTHR",
    **dict.fromkeys(
        (
            "unlikeliness.unlikeliness_advantage",
            "unlikeliness.ppo_loss_with_unlikeliness_advantage",
            "unlikeliness.pass_at_n",
            "unlikeliness.ppo_epochs_update",
            "unlikeliness.group_filter",
            "unlikeliness.uplift_rate",
        ),
        "unlikeliness reward",
    ),
    **dict.fromkeys(
        (
            "share_grpo.hierarchical_advantage",
            "share_grpo.rollout_repairing_and_advantage",
            "share_grpo.shared_policy_loss",
            "share_grpo.reward_function",
            "share_grpo.image_transforms",
        ),
        "Share-GRPO",
    ),
    **dict.fromkeys(
        ("rpo.rpo_loss_from_sequence_logps", "rpo.rpo_summed_sft_from_logits", "rpo.rpo_averaged_sft_from_logits"),
        "RPO",
    ),
    "decomposed_gp": "decomposed Gaussian process",
}


def check(case: Case) -> list[str]:
    """Everything that is wrong with a case, one line each: unknown names, missing keys, wrong values."""
    if case.kind not in HANDLERS:
        return [f"no handler for the kind '{case.kind}'"]
    got = HANDLERS[case.kind](case)
    return [f"{name}: unknown to the handler" for name in case.unread()] + differences(case, got)
