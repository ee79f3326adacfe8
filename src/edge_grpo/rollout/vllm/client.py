"""HTTP to one rollout server: typed requests and answers, retries of what is safe to repeat, one line when it fails."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from edge_grpo.rollout.engine import ServerError
from edge_grpo.rollout.vllm.background import together
from edge_grpo.rollout.vllm.server import API_KEY

__all__ = ["Answer", "Client", "Facts", "RefusedError", "Shown"]

PROTOCOL: Final = 1
_LONGEST_PAUSE_S: Final = 30.0
_CONNECT_S: Final = 10.0
_START: Final = "start it with `edge-grpo serve MODEL`"
_REASON: Final = re.compile(r"edge-grpo: (.*?)(?:', please check|$)", re.DOTALL)

Pause = Callable[[float], Awaitable[None]]


class RefusedError(ServerError):
    """The server rejected a request, which repeating would not change; ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        """Ranks pass errors on as pickles, which by default are made from the message alone."""
        return type(self), (str(self), self.status), self.__dict__


@dataclass(frozen=True)
class Facts:
    """What a server says about itself: ``name`` is that of the model in requests; lengths are in tokens."""

    vllm: str
    model: str
    name: str
    dtype: str
    max_model_len: int
    vocabulary: int
    logprobs_mode: str
    lora: bool
    max_lora_rank: int
    tensor_parallel: int
    device: str


@dataclass(frozen=True)
class Answer:
    """One sampled completion as the server tells it.

    ``logprobs`` is empty if none were asked for; ``reason`` is why it ended (``stop``, ``length``, ...), ``versions``
    the versions of the weights that sampled its tokens.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str
    versions: frozenset[str]


@dataclass(frozen=True)
class Shown:
    """A prompt with pictures as a server takes it: tokens with one placeholder for each, and their ``data:`` URLs."""

    token_ids: tuple[int, ...]
    urls: tuple[str, ...]


class Client:
    """Talks to one server; used inside one event loop.

    What fails on the way, or with a server's own error (5xx), is repeated after a pause that doubles from one second
    up; a rejected request (4xx) is not.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        key: API key; empty = none.
        timeout_s: the longest wait for one answer, in seconds.
        retries: how often a request is repeated at most.
        connections: how many requests may be on their way at once.
        pause: waits for a number of seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout_s: float = 600.0,
        retries: int = 6,
        connections: int = 256,
        pause: Pause = asyncio.sleep,
    ) -> None:
        import httpx2  # noqa: PLC0415 - only runs with a server need it

        self.url, self.timeout_s, self.retries, self._pause = url.rstrip("/"), timeout_s, retries, pause
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S), pool=None),
            limits=httpx2.Limits(max_connections=connections, keepalive_expiry=2.0),  # servers hang up after 5 s
            trust_env=False,  # no proxy between a run and its servers
        )

    def __str__(self) -> str:
        return f"rollout server {self.url}"

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    # --- what it is ---------------------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        """What the server says about itself; asked once, without retries.

        Raises:
            ServerError: it does not answer, or was not started by ``edge-grpo serve``.
        """
        try:
            found = await self._json("GET", "/edge_grpo", retries=0)
        except RefusedError as error:
            if error.status != 404:
                raise
            raise ServerError(f"{self} was not started by `edge-grpo serve`; {_START}") from None
        if found.get("protocol") != PROTOCOL:
            raise ServerError(
                f"{self} speaks version {found.get('protocol')} of the protocol, wanted {PROTOCOL}; start the "
                "server with the same version of edge-grpo"
            )
        try:
            return Facts(
                vllm=str(found["vllm"]),
                model=str(found["model"]),
                name=str(found["served_name"]),
                dtype=str(found["dtype"]),
                max_model_len=int(found["max_model_len"]),
                vocabulary=int(found["vocabulary"]),
                logprobs_mode=str(found["logprobs_mode"]),
                lora=bool(found["lora"]),
                max_lora_rank=int(found["max_lora_rank"]),
                tensor_parallel=int(found["tensor_parallel"]),
                device=str(found["device"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreadable("/edge_grpo", error) from None

    async def weight_version(self) -> str:
        """The version of the weights that it samples with."""
        found = await self._json("GET", "/weight_info")
        return str(found.get("weight_version"))

    # --- sampling -----------------------------------------------------------------------------------------------------

    async def generate(
        self, model: str, token_ids: tuple[int, ...], sampling: Mapping[str, Any], shown: Shown | None = None
    ) -> Answer:
        """Sample one completion of a prompt.

        Args:
            model: name of the model or adapter.
            token_ids: the prompt.
            sampling: vLLM's sampling parameters, for one completion.
            shown: the pictures of the prompt; None = it has none.
        Raises:
            RefusedError: the request is not valid there; status 404 if there is no model of that name.
            ServerError: there is no answer, it is not one completion, or the server reads pictures differently.
        """
        path = "/inference/v1/generate"
        body: dict[str, Any] = {"model": model, "token_ids": list(token_ids), "sampling_params": dict(sampling)}
        if shown is not None:
            body |= {"token_ids": list(shown.token_ids), "return_token_ids": True}
            body["content_parts"] = [{"type": "image_url", "url": url} for url in shown.urls]
        found = await self._json("POST", path, body)
        if shown is not None and found.get("prompt_token_ids") != list(token_ids):
            count = len(found.get("prompt_token_ids") or ())
            raise ServerError(
                f"{self} made {count} tokens of a prompt with pictures, wanted the {len(token_ids)} of the model's own "
                "processor; give both environments the same transformers and Pillow (or torchvision)"
            )
        try:
            (choice,) = found["choices"]
            told = choice["logprobs"]["content"] if "logprobs" in sampling else ()
            answer = Answer(
                token_ids=tuple(map(int, choice["token_ids"])),
                logprobs=tuple(float(each["logprob"]) for each in told),
                reason=str(choice["finish_reason"]),
                versions=frozenset(str(span["version"]) for span in choice["weight_versions"] or ()),
            )
            sampled = [int(each["token_id"]) for each in told]
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreadable(path, error) from None
        if "logprobs" in sampling and sampled != list(answer.token_ids):
            raise ServerError(f"{self} gave log-probs for other tokens than those of the completion; {_START}")
        return answer

    # --- weights ------------------------------------------------------------------------------------------------------

    async def join_transfer(self, init: Mapping[str, Any]) -> None:
        """Have the server's workers join the group that weights are broadcast in."""
        await self._once("/init_weight_transfer_engine", {"init_info": dict(init)})

    async def update_weights(
        self, update: Mapping[str, Any], version: str, *, send: Callable[[], None] | None = None
    ) -> None:
        """Replace the model's weights once everything in flight is done; repeated as a whole if the server fails.

        Args:
            update: what its weight-transfer engine is told, such as the folder that holds the weights.
            version: what the weights are called from then on.
            send: what this end does while the server takes them, if it must; such an update is not repeated.
        Raises:
            ServerError: it cannot take them; the old ones stay.
        """
        last = 0 if send else self.retries
        for attempt in range(last + 1):
            try:
                return await self._update_once(update, version, send)
            except RefusedError:
                raise
            except ServerError:
                if attempt == last:
                    raise
            await self._wait(attempt)
        return None

    async def _update_once(self, update: Mapping[str, Any], version: str, send: Callable[[], None] | None) -> None:
        try:
            await self._once("/pause?mode=wait")
            try:
                await self._once("/start_weight_update")
            except ServerError as error:
                if "already active" not in str(error):
                    raise
                await self._once("/finish_weight_update", {})  # left open by a process that was killed
                await self._once("/start_weight_update")
            taking = self._once("/update_weights", {"update_info": dict(update)})
            await (together([taking, asyncio.to_thread(send)]) if send else taking)
            await self._once("/finish_weight_update", {"weight_version": version})
        except BaseException:
            with suppress(ServerError):  # or the server would stay paused
                await self._once("/resume", retries=self.retries)
            raise
        await self._once("/resume", retries=self.retries)

    async def _once(self, path: str, body: Mapping[str, Any] | None = None, *, retries: int = 0) -> None:
        """One attempt, on a connection of its own: after an error, vLLM hangs up on the one that it came over."""
        await self._request("POST", path, body, retries=retries, headers={"Connection": "close"})

    async def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that it has loaded."""
        found = await self._json("GET", "/v1/models")
        try:
            return tuple(str(each["id"]) for each in found["data"] if each.get("parent"))
        except (KeyError, TypeError) as error:
            raise self._unreadable("/v1/models", error) from None

    async def load_adapter(self, name: str, folder: str) -> None:
        """Load an adapter from a folder."""
        await self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, retries: int | None = None
    ) -> dict[str, Any]:
        """The JSON object that a route answers with."""
        response = await self._request(method, path, body, retries=retries)
        try:
            found = response.json()
        except ValueError as error:
            raise self._unreadable(path, error) from None
        if not isinstance(found, dict):
            raise self._unreadable(path, f"got {type(found).__name__}, wanted an object")
        return found

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """A successful response.

        Raises:
            RefusedError: the server rejects the request (4xx), or what it was to read.
            ServerError: no success after the retries.
        """
        import httpx2  # noqa: PLC0415

        most, attempt = self.retries if retries is None else retries, 0
        while True:
            try:
                response = await self._http.request(method, path, json=body, headers=headers)
            except httpx2.ConnectError as error:
                told, remedy = f"does not answer ({_one_line(str(error))})", _START
            except httpx2.TimeoutException:
                told = f"did not answer within rollout.engine.timeout_s={self.timeout_s:g} seconds"
                remedy = "raise it, lower rollout.max_rows, or look into the server's log"
            except httpx2.RequestError as error:
                told, remedy = f"hung up ({_one_line(str(error)) or type(error).__name__})", f"{_START} again"
            else:
                if response.is_success:
                    return response
                told, remedy = self._failed(path, response.status_code, response.text), "its log says why"
            if attempt == most:
                times = f", in {most + 1} attempts" if most else ""
                raise ServerError(f"{self} {told}{times}; {remedy}")
            await self._wait(attempt)
            attempt += 1

    def _failed(self, path: str, status: int, text: str) -> str:
        """What went wrong on the server, if the request may be repeated.

        Raises:
            RefusedError: it would be of no use.
        """
        message = _message(text)
        if status in (401, 403):
            raise RefusedError(
                f"{self} wants an API key, and {API_KEY} is not set to the one that it was started with", status
            )
        if reason := _REASON.search(message):
            raise RefusedError(f"{self} rejected the weights: {_one_line(reason[1])}", status)
        if 400 <= status < 500 and status not in (408, 429):
            raise RefusedError(f"{self} rejected {path} ({status}: {_one_line(message)})", status)
        return f"failed ({status}: {_one_line(message)})"

    async def _wait(self, attempt: int) -> None:
        await self._pause(min(2.0**attempt, _LONGEST_PAUSE_S))

    def _unreadable(self, path: str, error: object) -> ServerError:
        return ServerError(
            f"{self} gave an answer on {path} that cannot be read ({_one_line(repr(error))}); {_START}, with the vLLM "
            "version that edge-grpo was made for"
        )


def _message(text: str) -> str:
    """The message inside a server's error."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    inner = found.get("error", found) if isinstance(found, dict) else found
    return str(inner.get("message", inner) if isinstance(inner, dict) else inner)


def _one_line(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}..."
