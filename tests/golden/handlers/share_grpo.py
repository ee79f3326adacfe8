"""Share-GRPO: re-pairing of answers and phrasings, hierarchical advantage, loss with dual clip, rewards of texts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from golden.cases import Case
from golden.handlers.wording import require_unbiased
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.base.tensors import Scored, Totals
from edge_grpo.data.transforms import transformed
from edge_grpo.methods.share_grpo import ShareGrpo
from edge_grpo.rewards.answers.equality import same_answer
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rewards.formats import tagged_answer, thinks_then_answers, thinks_then_boxes, tighten
from edge_grpo.training.batching import loss_inputs

RELEASE = "unbiased, global over Q*Q*n rows, local over n"
MEAN_EPS = 1e-8  # in the release's mean over tokens


def statistics_of(sentence: str) -> Literal["answers", "rows"]:
    """What the deviation of a question is taken over."""
    require_unbiased(sentence)
    plain = sentence.lower().replace(" ", "")
    return "answers" if "distinct" in plain or ("q*n" in plain and "q*q*n" not in plain) else "rows"


def arranged(case: Case, method: ShareGrpo, rewards: list[Any], lengths: list[Any]) -> tuple[list[Group], Tensor]:
    """The groups after re-pairing, and the indices (b, i, j, k) of each row; an answer's tokens encode its indices."""
    groups = []
    for b, phrasings in enumerate(rewards):
        for j, answers in enumerate(phrasings):
            rows = tuple(
                Row(
                    Rollout((j,), (Span((b, j, k, *[0] * (lengths[b][j][k] - 1)), Segment.SAMPLED),), finished=True),
                    Grade(Verdict.WRONG, reward),
                    source=j,
                )
                for k, reward in enumerate(answers)
            )
            groups.append(Group(Problem(str(b), "?", ("",)), rows, family=b, variant=j))
    trained = method.arrange(groups)
    places = [
        (group.family, row.rollout.prompt_ids[0], row.source, row.rollout.completion_ids[2])
        for group in trained
        for row in group.rows
    ]
    return trained, torch.tensor(places)


def shared_step(case: Case, rewards: list[Any], lengths: list[Any], width: int) -> tuple[ShareGrpo, Scored, Tensor]:
    """The rows of a step in the order of the groups, and their indices."""
    method = ShareGrpo(
        num_variants=len(rewards[0]),
        statistics=statistics_of(case.setting("std", RELEASE)),
        std_eps=case.setting("eps", 1e-6),
        clip_low=case.setting("clip_low", 0.2),
        clip_high=case.setting("clip_high", 0.3),
        delta=case.setting("clip_dual", 3.0),
    )
    trained, places = arranged(case, method, rewards, lengths)
    length = torch.tensor([lengths[b][j][k] for b, _, j, k in places.tolist()])
    mask = torch.arange(width) < length[:, None]
    batch = scored_rollouts(
        mask,
        torch.zeros(mask.shape, dtype=case.dtype),
        rewards=torch.tensor([rewards[b][j][k] for b, _, j, k in places.tolist()], dtype=case.dtype),
        group=torch.tensor([index for index, group in enumerate(trained) for _ in group.rows]),
    )
    return method, replace(batch, family=places[:, 0], variant=places[:, 1], source=places[:, 2]), places


def in_order(values: Tensor, places: Tensor) -> Tensor:
    """A value per row as a table over question, phrasing of the prompt, phrasing of the source, answer."""
    table = torch.zeros([int(n) + 1 for n in places.max(0).values], dtype=values.dtype)
    table[tuple(places.T)] = values
    return table


def sizes(case: Case, rewards: list[Any]) -> None:
    assert case.setting("questions", len(rewards)) == len(rewards)
    assert case.setting("variants_Q", len(rewards[0])) == len(rewards[0])
    assert case.setting("answers_n", len(rewards[0][0])) == len(rewards[0][0])


def hierarchical_advantage(case: Case) -> dict[str, Any]:
    rewards = case.value("reward")
    sizes(case, rewards)
    method, batch, places = shared_step(case, rewards, case.value("response_length"), case.value("max_response_length"))
    signal = method.signal(batch)
    return {
        "row_order_b_i_j_k": places,
        "sequence_advantage_b_i_j_k": in_order(signal.row_advantages, places),
        "token_advantage": signal.advantages,
        "response_mask": batch.mask.to(case.dtype),
    }


def rollout_repairing_and_advantage(case: Case) -> dict[str, Any]:
    texts, truths = case.value("answer_text_b_j_k"), case.value("ground_truth_b")
    weight, lengths = case.setting("format_weight", 0.1), case.value("response_length_b_j_k")
    width = case.value("max_response_length")
    rewards = [
        [[boxed_style(text, truth, weight)["overall"] for text in answers] for answers in phrasings]
        for phrasings, truth in zip(texts, truths, strict=True)
    ]
    sizes(case, rewards)
    method, batch, places = shared_step(case, rewards, lengths, width)
    own = batch.source == batch.variant
    return {
        "reward_b_j_k": rewards,
        "is_own_prompt_b_i_j_k": in_order(own.int(), places),
        "sequence_advantage_b_i_j_k": in_order(method.signal(batch).row_advantages, places),
        "response_mask_b_j_k": (torch.arange(width) < torch.tensor(lengths)[..., None]).int(),
        "num_training_rows": len(places),
    }


def shared_policy_loss(case: Case) -> dict[str, Any]:
    rewards = case.value("reward_b_j_k")
    sizes(case, rewards)
    method, batch, places = shared_step(
        case, rewards, case.value("response_length_b_j_k"), case.value("max_response_length")
    )
    order = torch.tensor(case.value("row_order_b_i_j_k"))
    assert torch.equal(order, places), "rows come in another order than those of the file"
    assert torch.equal(case.tensor("response_mask").bool(), batch.mask)
    batch = replace(batch, old_logprobs=case.tensor("old_log_probs"))
    new = case.tensor("log_probs").requires_grad_()
    signal = method.signal(batch)
    x = loss_inputs(batch, signal, torch.arange(len(places)), new.shape[1], logprobs=new, entropy=batch.entropy)
    totals = Totals(float(x.keep.sum()), float(x.mask.sum()) + MEAN_EPS, new.shape[1])
    loss = method.loss(x, totals)
    loss.backward()
    observed = means(method.observe(x, totals))
    return {
        "token_advantage": signal.advantages,
        "loss": loss,
        "clip_fraction_higher": observed["clip/low"] + observed["clip/high"],
        "clip_fraction_lower": observed.get("clip/dual", 0.0),
        "ppo_kl": observed["kl/old"],
        "grad": new.grad,
    }


def combined(formatted: bool, correct: bool, weight: float) -> dict[str, float]:
    return {
        "overall": (1 - weight) * correct + weight * formatted,
        "format": float(formatted),
        "accuracy": float(correct),
    }


def boxed_style(text: str, truth: str, weight: float) -> dict[str, float]:
    answer = boxed_answer(tighten(text))
    correct = answer is not None and same_answer(answer, truth)
    return combined(thinks_then_boxes(tighten(text)), correct, weight)


def answer_tag_style(text: str, truth: str, weight: float) -> dict[str, float]:
    answer = tagged_answer(tighten(text))
    correct = answer is not None and same_answer(answer, truth)
    return combined(thinks_then_answers(tighten(text)), correct, weight)


def reward_function(case: Case) -> dict[str, Any] | list[dict[str, Any]]:
    styles: dict[str, Callable[[str, str, float], dict[str, float]]] = {
        "boxed_style": boxed_style,
        "answer_tag_style": answer_tag_style,
    }
    weights = {
        "boxed_style": case.setting("format_weight_boxed", 0.1),
        "answer_tag_style": case.setting("format_weight_tag", 0.5),
    }
    rows = case.inputs if isinstance(case.inputs, list) else [case.inputs]
    results = []
    for row in rows:
        assert set(row) == {"text", "ground_truth"}, f"unknown inputs: {set(row)}"
        case.read |= {"inputs.text", "inputs.ground_truth"}
        results.append({name: style(row["text"], row["ground_truth"], weights[name]) for name, style in styles.items()})
    return results if isinstance(case.inputs, list) else results[0]


RELEASED = "uniform over 9 named transforms"
UNCHANGED = "None"


def image_transforms(case: Case) -> dict[str, Any]:
    usual = ShareGrpo()
    names, share = case.setting("names", list(usual.transforms)), usual.transform_share
    ShareGrpo(transforms=tuple(names), transform_share=case.setting("transform_probability_per_variant", share))
    assert case.setting("choice", RELEASED) == RELEASED
    pixels = np.array(case.value("image"), dtype=np.uint8)
    wanted = [name for name in case.expected if not name.startswith("_")]
    shown = {name: pixels if name == UNCHANGED else transformed(pixels, name) for name in wanted}
    return {name: own.tolist() for name, own in shown.items()}


HANDLERS = {
    "share_grpo.image_transforms": image_transforms,
    "share_grpo.hierarchical_advantage": hierarchical_advantage,
    "share_grpo.rollout_repairing_and_advantage": rollout_repairing_and_advantage,
    "share_grpo.shared_policy_loss": shared_policy_loss,
    "share_grpo.reward_function": reward_function,
}
