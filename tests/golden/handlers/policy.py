"""Log-probabilities and entropy from logits."""

from typing import Any

from golden.cases import Case

from edge_grpo.functional.filters import high_entropy
from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.functional.ops import masked_mean, row_mean


def logprob_and_entropy(case: Case) -> dict[str, Any]:
    logits = case.tensor("logits").requires_grad_()
    mask = case.tensor("completion_mask").bool()
    logprobs, entropy = logprobs_and_entropy(
        logits, case.tensor("token_ids").long(), temperature=case.setting("temperature")
    )
    ((case.tensor("w_logp") * logprobs).sum() + (case.tensor("w_ent") * entropy).sum()).backward()
    tops = case.expected.get("high_entropy_mask", {})
    return {
        "logps": logprobs,
        "entropies": entropy,
        "masked_mean_entropy": row_mean(entropy, mask),
        "global_masked_mean": masked_mean(entropy, mask),
        "grad_logits_of_weighted_sum": logits.grad,
        "high_entropy_mask": {top: high_entropy(entropy, mask, top=float(top)).int() for top in tops},
    }


HANDLERS = {"policy.logprob_and_entropy": logprob_and_entropy}
