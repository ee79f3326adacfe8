"""Prompts in, graded completions out: one place that encodes, samples and grades, for training and evaluation alike."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch.profiler import record_function

from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.base.records import Grade, Problem, Prompt, Rollout, Row, Scene
from edge_grpo.base.stopwatch import Stopwatch
from edge_grpo.base.world import World
from edge_grpo.data.prompts import Prompts, encode_follow_up, encode_problems, encode_question, encode_text
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import Tokenizer, Vision
from edge_grpo.data.turns import Turns, turns_of
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Engine, Request, Sampling

__all__ = ["Grader", "Sampler", "TextTokenizer"]

_TAIL = 256  # tokens at the end of a prompt in which its template's last header is looked for


@runtime_checkable
class Grader(Protocol):
    """Grades completions: :class:`edge_grpo.rewards.builtin.Rewards`, or a stand-in."""

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the reward parts."""
        ...

    @property
    def part_weights(self) -> Sequence[float]:
        """Weight of each part."""
        ...

    def grade(
        self,
        problems: Sequence[Problem],
        completions: Sequence[str],
        finished: Sequence[bool],
        token_ids: Sequence[Sequence[int]],
    ) -> list[Grade]:
        """One grade per completion, from its text, whether it ended by itself, and its tokens."""
        ...

    def answer(self, completion: str) -> str | None:
        """The answer read from a completion, None if there is none; completions with equal answers agree."""
        ...


@runtime_checkable
class TextTokenizer(Tokenizer, Protocol):
    """The part of a Hugging Face tokenizer that encodes prompts and decodes completions."""

    def batch_decode(
        self, ids: list[list[int]], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> list[str]:
        """The text of each list of token ids."""
        ...


class Sampler:
    """An engine, a grader and a tokenizer that belong together; :func:`edge_grpo.rollout.open.open_sampler` opens one.

    Args:
        engine: generates tokens.
        grader: grades completions.
        tokenizer: the model's.
        data: template and rule for over-long prompts.
        stop_ids: tokens that only end a completion; the first one closes injected text.
        marker_ids: further tokens that are not text (:func:`edge_grpo.models.stops.marker_ids`).
        context: the model's context length in tokens; None = no known limit.
        vocabulary: size of the model's vocabulary; None = unknown.
        vision: reads the images of prompts; None = the model reads only text.
        watch: counts the seconds of the phases ``sample`` and ``grade``; None = a new one, which names them in
            traces of torch.profiler.
        world: the ranks that share the grading, and get all grades; the engine knows how they share the sampling.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        grader: Grader,
        tokenizer: TextTokenizer,
        data: DataSettings,
        stop_ids: tuple[int, ...],
        marker_ids: Collection[int] = (),
        context: int | None = None,
        vocabulary: int | None = None,
        vision: Vision | None = None,
        watch: Stopwatch | None = None,
        world: World | None = None,
    ) -> None:
        self.watch, self.world = watch or Stopwatch(span=record_function), world or World()
        self.engine, self.grader, self.tokenizer, self.data = engine, grader, tokenizer, data
        self.stop_ids, self.context, self.vocabulary, self.vision = stop_ids, context, vocabulary, vision
        self._not_text = {*stop_ids, *marker_ids}

    @property
    def exact(self) -> bool:
        """Whether the engine's log-probs are those of the policy (see :class:`edge_grpo.rollout.engine.Engine`)."""
        return self.engine.exact

    @property
    def stop_id(self) -> int:
        """The token that closes injected text; also a valid padding id."""
        return self.stop_ids[0]

    # --- text to tokens -----------------------------------------------------------------------------------------------

    def encode(
        self,
        problems: Iterable[Problem],
        *,
        max_new_tokens: int,
        variants: int = 1,
        transformed: bool = False,
        setting: str = "rollout.max_new_tokens",
    ) -> Prompts:
        """Encode problems as prompts.

        Args:
            problems: what to encode.
            max_new_tokens: how many tokens must fit after each prompt.
            variants: how many phrasings of each problem are needed; above 1, all of them are encoded.
            transformed: whether images are shown in other ways, so that fewer phrasings will do.
            setting: what the user set ``max_new_tokens`` with, for messages.
        Raises:
            DataError: a prompt is over-long and may be neither skipped nor cut, or a problem has too few phrasings.
            ConfigError: a prompt and its completion exceed the model's context, or a token is not in its vocabulary.
        """
        encoded = encode_problems(
            self.tokenizer, problems, self.data, vision=self.vision, variants=variants, transformed=transformed
        )
        self.check_fit(
            [ids for each in encoded.prompts for ids in (each.prompt_ids, *each.variant_ids)],
            max_new_tokens,
            longest=max((each.longest for each in encoded.prompts), default=0),
            setting=setting,
        )
        return encoded

    def encode_one(self, problem: Problem) -> Prompt:
        """Encode a problem as it is, however long its prompt is.

        Raises:
            UnusableImageError: an image cannot be decoded, or the model's processor rejects the prompt.
        """
        return encode_question(self.tokenizer, problem, self.data, self.vision)

    def check_fit(
        self,
        prompts: Sequence[tuple[int, ...]],
        max_new_tokens: int,
        *,
        longest: int = 0,
        setting: str = "rollout.max_new_tokens",
    ) -> None:
        """Reject prompts that do not fit the model and would later produce nonsense or an index error.

        ``longest`` counts the tokens of a prompt that is only measured so far.

        Raises:
            ConfigError: a token is not in the model's vocabulary, or a prompt and its completion exceed the context.
        """
        largest = max((max(ids) for ids in prompts), default=0)
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise ConfigError(
                f"model.path: the tokenizer yields token {largest}, but the model has {self.vocabulary}; use the "
                "tokenizer that belongs to the model"
            )
        longest = max(longest, *(len(ids) for ids in prompts), 0)
        if self.context is not None and longest + max_new_tokens > self.context:
            raise ConfigError(
                f"{setting}: a prompt of {longest} tokens and {max_new_tokens} new ones exceed the "
                f"model's context of {self.context}; lower it, or data.max_prompt_tokens"
            )

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Whether a prompt is neither over-long nor leaves too little of the model's context."""
        length = len(prompt.prompt_ids)
        room = self.context is None or length + max_new_tokens <= self.context
        return room and length <= self.data.max_prompt_tokens

    def encode_text(self, text: str, *, most: int) -> tuple[int, ...]:
        """Token ids of text to inject; a huge text yields only its first ones, at least ``most`` + 1."""
        return encode_text(self.tokenizer, text, most=most)

    def encode_answer(self, text: str) -> tuple[int, ...]:
        """Token ids of a whole answer, with the token that ends it."""
        return (*self.encode_text(text, most=len(text)), self.stop_id)

    def encode_follow_up(self, text: str) -> tuple[int, ...]:
        """Token ids of another user turn after an answer."""
        return encode_follow_up(self.tokenizer, text, self.data)

    def texts(self, rollouts: Sequence[Rollout]) -> list[str]:
        """The text of each answer, for grading and display only.

        It begins with what the prompt opened, such as ``<think>``. Stop tokens, padding and the markers of turns are
        left out; other special tokens, such as tags, are part of it.
        """
        prompts = {rollout.prompt_ids: "" for rollout in rollouts}
        tails = self._decoded([ids[-_TAIL:] for ids in prompts])
        prompts = {ids: self._turns.opened_in(tail) for ids, tail in zip(prompts, tails, strict=True)}
        own = [[token for token in rollout.completion_ids if token not in self._not_text] for rollout in rollouts]
        return [prompts[each.prompt_ids] + text for each, text in zip(rollouts, self._decoded(own), strict=True)]

    @cached_property
    def _turns(self) -> Turns:
        return turns_of(self.tokenizer, self.data)

    def _decoded(self, rows: Sequence[Sequence[int]]) -> list[str]:
        if not rows:
            return []  # the tokenizer takes an empty batch for one empty text
        return self.tokenizer.batch_decode(
            [list(row) for row in rows], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    # --- sampling and grading -----------------------------------------------------------------------------------------

    def sample(
        self, prompts: Sequence[Prompt], seeds: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> list[tuple[Row, ...]]:
        """Graded completions of each prompt, one per seed."""
        requests = [Request(prompt.prompt_ids, own, prompt.scene) for prompt, own in zip(prompts, seeds, strict=True)]
        with self.watch.phase("sample"):
            sampled = self.engine.sample(requests, sampling)
        if [len(own) for own in sampled] != [len(request.seeds) for request in requests]:
            raise EngineError(
                f"{type(self.engine).__name__}.sample returned {[len(own) for own in sampled]} rollouts, wanted "
                f"{[len(request.seeds) for request in requests]}: one tuple per request, one rollout per seed"
            )
        shown = [
            tuple(_shown(rollout, prompt.scene) for rollout in rollouts)
            for prompt, rollouts in zip(prompts, sampled, strict=True)
        ]
        problems = [prompt.problem for prompt, rollouts in zip(prompts, shown, strict=True) for _ in rollouts]
        grades = iter(self.grade(problems, [rollout for rollouts in shown for rollout in rollouts]))
        return [tuple(Row(rollout, next(grades)) for rollout in rollouts) for rollouts in shown]

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        """Append injected tokens to rollouts and continue sampling; not graded."""
        with self.watch.phase("sample"):
            continued = self.engine.resume(continuations, sampling)
        if len(continued) != len(continuations):
            raise EngineError(
                f"{type(self.engine).__name__}.resume returned {len(continued)} rollouts, wanted {len(continuations)}"
            )
        pairs = zip(continuations, continued, strict=True)
        return [_shown(rollout, asked.rollout.scene) for asked, rollout in pairs]

    def grade(self, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Grade]:
        """One grade per rollout."""
        pairs = list(zip(problems, rollouts, strict=True))
        return self.world.share(pairs, lambda own: self._grade([one for one, _ in own], [one for _, one in own]))

    def _grade(self, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Grade]:
        """The only place where tokens become text to be judged."""
        with self.watch.phase("grade"):
            finished = [rollout.finished for rollout in rollouts]
            token_ids = [rollout.completion_ids for rollout in rollouts]
            return self.grader.grade(problems, self.texts(rollouts), finished, token_ids)

    def sync(self, policy: Policy, version: int) -> None:
        """Hand the engine the policy's weights, after a restore and after every update.

        Args:
            policy: holds the weights.
            version: number of training steps that produced them.
        """
        self.engine.sync(policy, version)


def _shown(rollout: Rollout, scene: Scene | None) -> Rollout:
    """A rollout with the scene of its prompt, which engines do not hand back."""
    return rollout if scene is None else replace(rollout, scene=scene)
