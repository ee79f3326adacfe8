"""The engine on vLLM servers: token ids in, token ids out, and never a token from other weights than the policy's."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch

from edge_grpo.base.records import Picture, Rollout, Segment
from edge_grpo.config.sections import VllmEngineSettings
from edge_grpo.data.pictures import data_url
from edge_grpo.models.export import exported
from edge_grpo.models.loading import vocabulary_size
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Request, Sampling, ServerError, start_of
from edge_grpo.rollout.stop_strings import StopStrings
from edge_grpo.rollout.vllm import nccl
from edge_grpo.rollout.vllm.answers import Ended, Row, ended, parameters, truncates
from edge_grpo.rollout.vllm.background import Background, together
from edge_grpo.rollout.vllm.client import Answer, Client, Facts, Pause, RefusedError, Shown
from edge_grpo.rollout.vllm.probe import PROBE, check_scores, probe_row
from edge_grpo.rollout.vllm.weights import BASE, Handover

__all__ = ["VllmEngine"]

_NO_PICTURES: Final[Mapping[Picture, str]] = {}
_SYNCED: Final = "its log has a reason, or another run uses the server: give each run servers of its own"


@dataclass
class _Server:
    """One server, and which weights it is known to have; empty = unknown."""

    client: Client
    facts: Facts
    free: asyncio.Semaphore
    weights: str = ""
    broadcast: nccl.Broadcast | None = None


class VllmEngine:
    """Samples on servers that ``edge-grpo serve`` started, after handing them the policy's weights.

    Every answer names the version of the weights it was sampled with. One that is not the policy's, because the server
    was restarted or another run uses it, is thrown away: the server is given the weights again, and the rows are
    sampled again from the same seeds. The first ``sync`` hands the weights over at once and compares a few log-probs
    with the policy's own; later ones write them, and the servers read them before the next sample.

    Args:
        settings: addresses and time limits.
        policy: scores the probe; its tokenizer decodes for stop strings.
        stop_ids: tokens that end a completion and are part of it.
        stop_texts: strings that end a completion once its decoded text contains one.
        max_rows: how many rows a server is asked for at once.
        session: names the weights of this session: 12 hex digits, its own every time.
        key: the servers' API key; empty = none.
        say: shows a line about what the user should know.
        pause: waits for a number of seconds before a request is repeated.
    Raises:
        ServerError: a server does not answer, or does not fit the run.
    """

    exact = False

    def __init__(
        self,
        settings: VllmEngineSettings,
        *,
        policy: Policy,
        stop_ids: Iterable[int],
        stop_texts: Sequence[str] = (),
        max_rows: int = 256,
        session: str,
        key: str = "",
        say: Callable[[str], None] = lambda _: None,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self.settings, self.policy, self.session, self._say = settings, policy, session, say
        self.stop_ids = tuple(sorted(set(stop_ids)))
        self.stop_strings = StopStrings(policy.tokenizer, stop_texts)
        self.vocabulary = vocabulary_size(policy)
        self.as_adapter = settings.lora == "adapter" and policy.has_adapters
        self.version = self._again = 0
        self._label = self._folder = ""
        self._truncation_told = False
        if settings.lora == "adapter" and not self.as_adapter:
            say("rollout.engine.lora=adapter has no effect: the model has no adapter, and is handed over whole")
        self._background = Background()
        self._handover: Handover | None = None
        self._servers: list[_Server] = []
        self._clients = [
            Client(
                url,
                key=key,
                timeout_s=settings.timeout_s,
                retries=settings.retries,
                connections=max_rows,
                pause=pause,
            )
            for url in settings.urls
        ]
        try:
            facts = self._background.run(together(client.facts() for client in self._clients))
            for client, own in zip(self._clients, facts, strict=True):
                self._check_fit(client, own)
                self._servers.append(_Server(client, own, asyncio.Semaphore(max_rows)))
            self._handover = Handover(settings.folder, session)
        except BaseException:
            self.close()
            raise

    def _check_fit(self, client: Client, facts: Facts) -> None:
        """Raise ServerError for a server that cannot serve this run."""
        if facts.vocabulary != self.vocabulary:
            raise ServerError(
                f"{client} serves {facts.model}, with {facts.vocabulary} tokens in its vocabulary, and model.path has "
                f"{self.vocabulary}; start it with `edge-grpo serve MODEL`, where MODEL is that of model.path"
            )
        if facts.logprobs_mode != "processed_logprobs":
            raise ServerError(f"{client} was started with --logprobs-mode {facts.logprobs_mode}; leave that out")
        if self.settings.transport == "nccl":
            nccl.check(self.policy.device, facts, str(client))
        if self.as_adapter and not facts.lora:
            raise ServerError(
                f"{client} takes no adapters; start it with `edge-grpo serve MODEL --lora RANK`, or set "
                "rollout.engine.lora=merged"
            )
        if self.as_adapter and self.policy.adapted.rank > facts.max_lora_rank:
            raise ServerError(
                f"{client} takes adapters of rank {facts.max_lora_rank} at most, and model.lora.rank is "
                f"{self.policy.adapted.rank}; start it with `edge-grpo serve MODEL --lora {self.policy.adapted.rank}`"
            )

    @property
    def context(self) -> int:
        """The servers' length limit, prompt and completion together, in tokens."""
        return min(server.facts.max_model_len for server in self._servers)

    def close(self) -> None:
        """Close all connections, and remove the weights that were handed over."""
        if self._clients:
            self._background.run(together(client.close() for client in self._clients))
        self._background.close()
        if self._handover is not None:
            self._handover.close()
        self._clients, self._servers, self._handover = [], [], None

    # --- sampling -----------------------------------------------------------------------------------------------------

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request (see :class:`edge_grpo.rollout.engine.Engine`).

        Raises:
            ServerError: there is no answer, or none that can be used.
        """
        rows = [
            Row(request.prompt_ids, seed, sampling.max_new_tokens, number, request.scene)
            for number, request in enumerate(requests)
            for seed in request.seeds
        ]
        spans = iter(self._sampled(rows, sampling, Segment.SAMPLED))
        return [
            tuple(Rollout(own.prompt_ids, (span,), *ending) for span, *ending in islice(spans, len(own.seeds)))
            for own in requests
        ]

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        """Append injected tokens to rollouts and continue sampling (see :class:`edge_grpo.rollout.engine.Engine`).

        Raises:
            EngineError: a budget leaves no room for a sampled token.
            ServerError: there is no answer, or none that can be used.
        """
        started = [start_of(item) for item in continuations]
        rows = [
            Row(start.prompt_ids + start.completion_ids, item.seed, room, number, start.scene)
            for number, (item, (start, room)) in enumerate(zip(continuations, started, strict=True))
        ]
        spans = self._sampled(rows, sampling, Segment.CONTINUED)
        return [
            Rollout(start.prompt_ids, (*start.spans, span), *ending)
            for (start, _), (span, *ending) in zip(started, spans, strict=True)
        ]

    def _sampled(self, rows: Sequence[Row], sampling: Sampling, segment: Segment) -> list[Ended]:
        """The span of each row, and how it ended."""
        self._check_wish(rows, sampling)
        found = self._ended(rows, sampling, segment, self.stop_strings.strings)
        open_rows = [row for row, own in zip(rows, found, strict=True) if own is None]
        whole = iter(self._ended(open_rows, sampling, segment, ()))  # where the server reads the text differently
        return [own for own in (each or next(whole) for each in found) if own is not None]

    def _ended(
        self, rows: Sequence[Row], sampling: Sampling, segment: Segment, strings: Sequence[str]
    ) -> list[Ended | None]:
        """What the servers make of the rows if they stop at these strings (see :func:`answers.ended`)."""
        wishes = [parameters(row, sampling, stop_ids=self.stop_ids, strings=strings) for row in rows]
        return [
            ended(
                answer,
                row,
                scored=not truncates(sampling),
                strings_sent=bool(strings),
                stop_ids=self.stop_ids,
                strings=self.stop_strings,
                vocabulary=self.vocabulary,
                segment=segment,
                version=self.version,
            )
            for answer, row in zip(self._answers(rows, wishes), rows, strict=True)
        ]

    def _check_wish(self, rows: Sequence[Row], sampling: Sampling) -> None:
        """Reject what vLLM would change in silence, and say once what cannot be recorded."""
        if not (sampling.temperature == 0 or 0.01 <= sampling.temperature <= 2):
            raise ServerError(f"temperature {sampling.temperature:g}: vLLM samples at 0, or at 0.01 to 2")
        if not all(row.token_ids for row in rows):
            raise ServerError("an empty prompt cannot be continued; give the template at least one token")
        if (longest := max((len(row.token_ids) + row.budget for row in rows), default=0)) > self.context:
            raise ServerError(
                f"a prompt and its completion of {longest} tokens exceed the length limit of the rollout server, "
                f"{self.context}; start it with a larger --max-model-len, or lower rollout.max_new_tokens"
            )
        if truncates(sampling) and not self._truncation_told:
            self._truncation_told = True
            self._say(
                "top_p or top_k: vLLM's log-probs are of the truncated distribution, so none are recorded, and "
                "method.sampler_correction has nothing to correct by"
            )

    # --- requests -----------------------------------------------------------------------------------------------------

    def _answers(self, rows: Sequence[Row], wishes: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """One answer per row, each sampled with the policy's weights alone."""
        answers: dict[int, Answer] = {}
        pictures = dict.fromkeys(picture for row in rows if row.scene for picture in row.scene.pictures)
        urls = {picture: data_url(picture) for picture in pictures}
        for _ in range(self.settings.retries + 1):
            missing = [number for number in range(len(rows)) if number not in answers]
            if not missing:
                break
            self._background.run(self._bring_up())
            asked = [
                self._ask(self._servers[rows[i].prompt % len(self._servers)], rows[i], wishes[i], urls) for i in missing
            ]
            for number, answer in zip(missing, self._background.run(together(asked)), strict=True):
                if answer is not None:
                    answers[number] = answer
            for server in self._servers:
                if not server.weights and len(answers) < len(rows):
                    self._say(
                        f"{server.client} lost the policy's weights; they are handed over again, and "
                        f"{len(rows) - len(answers)} completions are sampled again"
                    )
        if len(answers) < len(rows):
            raise ServerError(
                f"{self._servers[0].client} samples with other weights than it was given, {self.settings.retries + 1} "
                "times in a row; another run may use it: give each run servers of its own"
            )
        return [answers[number] for number in range(len(rows))]

    def _shown(self, row: Row, urls: Mapping[Picture, str]) -> Shown | None:
        """The pictures of a row, as the model is shown them, and its tokens before they were filled in."""
        if row.scene is None:
            return None
        text = self.policy.tokenizer.encode(row.scene.text, add_special_tokens=row.scene.special)
        short = (*text, *row.token_ids[row.scene.num_tokens :])
        return Shown(short, tuple(urls[picture] for picture in row.scene.pictures))

    async def _ask(
        self, server: _Server, row: Row, wish: Mapping[str, Any], urls: Mapping[Picture, str] = _NO_PICTURES
    ) -> Answer | None:
        """A server's answer; None, and its weights unknown, if it was sampled with others than the policy's."""
        async with server.free:
            model = self._label if self.as_adapter else server.facts.name
            try:
                answer = await server.client.generate(model, row.token_ids, wish, self._shown(row, urls))
            except RefusedError as error:
                if not (self.as_adapter and error.status == 404):
                    raise
                answer = None  # it was restarted, without the adapter
        if answer is None or answer.reason == "abort" or (answer.token_ids and answer.versions != {self._expected}):
            server.weights = ""
            return None
        return answer

    # --- weights ------------------------------------------------------------------------------------------------------

    def sync(self, policy: Policy, version: int) -> None:
        """Write the policy's weights for the servers to read before the next sample; the first time at once.

        Raises:
            EngineError: the folder cannot be written.
            ServerError: at the first time: a server cannot take them, or its log-probs are not the policy's.
        """
        assert self._handover is not None, "the engine is closed"
        first = not self._label
        self._again = self._again + 1 if version == self.version and not first else 0
        self.policy, self.version = policy, version
        name = f"{version}.{self._again}" if self._again else f"{version}"
        self._label = f"{self.session}:{name}"
        self._folder = f"step-{name}"
        if self.settings.transport == "folder":
            self._write(self._handover, frozen=first)
        if first:
            self._background.run(self._bring_up())
            self._probe()

    def _write(self, handover: Handover, *, frozen: bool) -> None:
        """Write the weights; under adapters, the frozen ones once."""
        if not self.as_adapter:
            handover.write(self._folder, exported(self.policy), dtype=self._dtype)
            return
        if frozen:
            handover.write(BASE, exported(self.policy, adapters=False))
        handover.write_adapter(self._folder, self.policy)

    @property
    def _dtype(self) -> torch.dtype | None:
        """Forward passes of the policy under autocast round its weights, too; None = as they are."""
        return torch.bfloat16 if self.policy.autocast else None

    @property
    def _expected(self) -> str:
        """The version of the model's weights in answers; that of an adapter is its name."""
        return f"{self.session}:{BASE}" if self.as_adapter else self._label

    async def _bring_up(self) -> None:
        await together(self._hand_over(server) for server in self._servers if server.weights != self._label)

    async def _hand_over(self, server: _Server) -> None:
        """Make a server sample with the newest weights."""
        assert self._handover is not None, "the engine is closed"
        client, handover = server.client, self._handover
        if self.settings.transport == "nccl":
            await self._broadcast(server)
        elif await client.weight_version() != self._expected:
            folder = handover.path(BASE if self.as_adapter else self._folder)
            await client.update_weights({"path": str(folder)}, self._expected)
        if self.as_adapter:
            loaded = await client.adapters()
            if self._label not in loaded:
                await client.load_adapter(self._label, str(handover.path(self._folder)))
            for old in loaded:
                if old.startswith(f"{self.session}:") and old != self._label:
                    await client.unload_adapter(old)
        server.weights = self._label

    async def _broadcast(self, server: _Server) -> None:
        """Send a server the policy's weights from GPU to GPU, in a group that lasts as long as nothing fails."""
        group, server.broadcast = server.broadcast or await nccl.Broadcast.join(server.client, server.facts), None
        tensors = [
            (name, weight.to(self.policy.device, self._dtype if weight.is_floating_point() else None))
            for name, weight in exported(self.policy)
        ]
        await server.client.update_weights(group.announcement(tensors), self._label, send=lambda: group.send(tensors))
        server.broadcast = group

    def _probe(self) -> None:
        """Compare each server's log-probs with the policy's."""
        row = probe_row(self.policy, self.vocabulary)
        wish = parameters(row, PROBE, stop_ids=())
        answers = self._background.run(together(self._ask(server, row, wish) for server in self._servers))
        for server, answer in zip(self._servers, answers, strict=True):
            if answer is None or len(answer.logprobs) != row.budget:
                raise ServerError(f"{server.client} does not sample with the weights it was given; {_SYNCED}")
            if line := check_scores(self.policy, row, answer, server=str(server.client), dtype=server.facts.dtype):
                self._say(line)
