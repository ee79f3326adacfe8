"""Carries out repairs: builds the corrected completions, grades them, and keeps those that may be trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge_grpo.base.records import Group, Rollout, Row, Strategy
from edge_grpo.base.rng import derive_seed
from edge_grpo.methods.base import Repair
from edge_grpo.rollout.engine import Continuation, Sampling, inject
from edge_grpo.rollout.sampler import Sampler

__all__ = ["Corrected", "Corrector"]

Place = tuple[int, int]  # a group and a row in it


@dataclass(frozen=True)
class Corrected:
    """Groups after their repairs, how many rows were corrected, and why the others were not.

    ``num_fallbacks`` counts rows that got the answer because their worked solution did not grade right.
    """

    groups: list[Group]
    num_rows: int = 0
    num_fallbacks: int = 0
    skipped: Mapping[Place, str] = field(default_factory=dict)


class Corrector:
    """Corrects rows of groups; keeps no state.

    A repair is skipped, and its row left alone, for one of these reasons: ``empty`` (its text has no tokens),
    ``vocabulary`` (a token that the model does not have), ``budget`` and ``context`` (too long for its budget, or for
    the model), ``reference`` (an injected answer or solution that does not grade right, and no fallback that does).

    Args:
        sampler: encodes, continues and grades.
        sampling: how continuations are drawn.
        seed: the run's.
    """

    def __init__(self, sampler: Sampler, sampling: Sampling, seed: int) -> None:
        self.sampler, self.sampling, self.seed = sampler, sampling, seed

    def correct(self, groups: Sequence[Group], repairs: Sequence[Repair], path: tuple[int, int, int]) -> Corrected:
        """Carry out repairs of distinct rows; ``path``, step, round and turn, names the draws of continuations."""
        by_place = {(repair.group, repair.row): repair for repair in repairs}
        edited, skipped = self._edited(groups, by_place, path)
        if not edited:
            return Corrected(list(groups), skipped=skipped)
        grades = self.sampler.grade([groups[g].problem for g, _ in edited], list(edited.values()))
        rows = [list(group.rows) for group in groups]
        fallbacks: list[Repair] = []
        num_rows = 0
        for ((g, i), rollout), grade in zip(edited.items(), grades, strict=True):
            repair, old = by_place[g, i], rows[g][i]
            if grade.correct or repair.strategy is Strategy.REFLECT:
                rows[g][i] = Row(rollout, grade, repair.strategy, first=(old.rollout, old.grade), source=old.source)
                num_rows += 1
            elif repair.fallback:
                fallbacks.append(replace(repair, strategy=Strategy.ANSWER, text=repair.fallback, fallback=""))
            else:
                skipped[g, i] = "reference"
        kept = [replace(group, rows=tuple(own)) for group, own in zip(groups, rows, strict=True)]
        if not fallbacks:
            return Corrected(kept, num_rows, 0, skipped)
        second = self.correct(kept, fallbacks, path)
        return Corrected(second.groups, num_rows + second.num_rows, second.num_rows, {**skipped, **second.skipped})

    def _edited(
        self, groups: Sequence[Group], repairs: Mapping[Place, Repair], path: tuple[int, int, int]
    ) -> tuple[dict[Place, Rollout], dict[Place, str]]:
        """The corrected completions, injections first, and the reasons why others were skipped."""
        edited: dict[Place, Rollout] = {}
        skipped: dict[Place, str] = {}
        continued: dict[Place, Continuation] = {}
        for place, repair in repairs.items():
            rollout = groups[repair.group].rows[repair.row].rollout
            start = replace(rollout, spans=(), finished=False, ends_in_text=False) if _replaces(repair) else rollout
            ids = self.sampler.encode_text(repair.text, most=self.sampling.max_new_tokens + repair.budget)
            if reason := self._reason(repair, start, ids):
                skipped[place] = reason
            elif repair.strategy is Strategy.REFLECT:
                seed = derive_seed(self.seed, "continue", *path, repair.group, repair.row)
                continued[place] = Continuation(rollout, ids, repair.budget, seed)
            else:
                edited[place] = inject(start, (*ids, self.sampler.stop_id), finished=True)
        if continued:
            resumed = self.sampler.resume(list(continued.values()), self.sampling)
            edited |= dict(zip(continued, resumed, strict=True))
        return edited, skipped

    def _reason(self, repair: Repair, start: Rollout, ids: tuple[int, ...]) -> str:
        """Why a repair cannot be carried out; empty if it can."""
        reflects = repair.strategy is Strategy.REFLECT
        if not ids and not reflects:
            return "empty"
        if self.sampler.vocabulary is not None and max(ids, default=0) >= self.sampler.vocabulary:
            return "vocabulary"
        budget = repair.budget + (self.sampling.max_new_tokens if _replaces(repair) else 0)
        if len(ids) + 1 > budget:  # one more: the stop token, or a first sampled one
            return "budget"
        added = budget if reflects else len(ids) + 1
        before = len(start.prompt_ids) + len(inject(start, (), finished=False).completion_ids)
        if self.sampler.context is not None and before + added > self.sampler.context:
            return "context"
        return ""


def _replaces(repair: Repair) -> bool:
    return repair.strategy is Strategy.REFERENCE
