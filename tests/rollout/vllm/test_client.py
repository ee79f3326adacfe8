"""Talking to one server: what is repeated, what is not, and the one line that each failure ends in."""

import asyncio
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout.vllm.server import Reply, State, listening
from support import save_tiny

from edge_grpo.rollout.engine import ServerError
from edge_grpo.rollout.vllm.background import Background, together
from edge_grpo.rollout.vllm.client import Answer, Client, RefusedError

WISH = {"max_tokens": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "stop_token_ids": [], "ignore_eos": True,
        "seed": 3, "logprobs": 0}  # fmt: skip


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, State]]:
    state = State(save_tiny(tmp_path_factory.mktemp("model")))
    with listening(state) as url:
        yield url, state


@pytest.fixture
def state(started: tuple[str, State]) -> Iterator[State]:
    state = started[1]
    state.asked.clear()
    yield state
    state.trouble, state.change = (lambda _path, _body: None), (lambda _choice: None)
    state.key, state.settings, state.version, state.updating = "", {}, "default", False


Ask = Callable[..., Any]


@pytest.fixture
def ask(started: tuple[str, State], state: State) -> Iterator[Ask]:
    """Calls a method of a client; ``ask.pauses`` are the seconds between its attempts."""
    background = Background()

    def call(name: str, *given: Any, url: str = started[0], **settings: Any) -> Any:
        call.pauses = []  # type: ignore[attr-defined]

        async def pause(seconds: float) -> None:
            call.pauses.append(seconds)  # type: ignore[attr-defined]

        async def work() -> Any:
            client = Client(url, pause=pause, **{"retries": 2} | settings)
            try:
                return await getattr(client, name)(*given)
            finally:
                await client.close()

        return background.run(work())

    yield call
    background.close()


def times(
    count: int, reply: Reply, of: str = "/inference/v1/generate"
) -> Callable[[str, dict[str, Any]], Reply | None]:
    """The first ``count`` requests to a path get this reply."""
    left = [count]

    def trouble(path: str, body: dict[str, Any]) -> Reply | None:
        if path != of or not left[0]:
            return None
        left[0] -= 1
        return reply

    return trouble


GENERATE = ("generate", "policy", (10, 11, 12), WISH)
DEAD = (500, {"error": {"message": "EngineDeadError: see\nstack trace", "code": 500}})


@pytest.mark.parametrize("reply", [DEAD, (503, b""), (429, {"error": "busy"}), (0, None)])
def test_what_may_pass_is_repeated_after_growing_pauses(ask: Ask, state: State, reply: Reply) -> None:
    wanted = ask(*GENERATE)
    state.trouble = times(2, reply)
    assert ask(*GENERATE) == wanted
    assert ask.pauses == [1.0, 2.0]
    assert isinstance(wanted, Answer)
    assert len(wanted.token_ids) == len(wanted.logprobs) == 4
    assert wanted.versions == {"default"}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (DEAD, r"failed \(500: EngineDeadError: see stack trace\), in 3 attempts; its log says why"),
        ((0, None), r"hung up \(.*\), in 3 attempts; start it with `edge-grpo serve MODEL` again"),
    ],
)
def test_what_does_not_pass_is_one_line(
    ask: Ask, state: State, started: tuple[str, State], reply: Reply, message: str
) -> None:
    state.trouble = times(9, reply)
    with pytest.raises(ServerError, match=rf"^rollout server {started[0]} {message}$"):
        ask(*GENERATE)
    assert len(state.paths("/inference/v1/generate")) == 3


def test_a_server_that_is_not_there(ask: Ask) -> None:
    with pytest.raises(ServerError, match=r"^rollout server http://127.0.0.1:9 does not answer \(.+\); start it with"):
        ask("facts", url="http://127.0.0.1:9")
    assert ask.pauses == [], "a wrong address is told at once"
    with pytest.raises(ServerError, match=r"does not answer .*, in 3 attempts"):
        ask(*GENERATE, url="http://127.0.0.1:9")


def test_a_slow_answer(ask: Ask, state: State) -> None:
    def slow(path: str, body: dict[str, Any]) -> None:
        time.sleep(0.3)

    state.trouble = slow
    with pytest.raises(
        ServerError, match=r"did not answer within rollout.engine.timeout_s=0.05 seconds, in 2 attempts"
    ):
        ask(*GENERATE, timeout_s=0.05, retries=1)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            (400, {"error": {"message": "Token id 5000\nis out of vocabulary"}}),
            "rejected /inference/v1/generate .400: To",
        ),
        ((404, {"error": {"message": "The model `x` does not exist."}}), "404: The model `x` does not exist"),
        ((404, b"<html>"), "404: <html>"),
        ((401, {"error": "Unauthorized"}), "wants an API key, and EDGE_GRPO_API_KEY is not set to the one"),
    ],
)
def test_a_rejected_request_is_not_repeated(ask: Ask, state: State, reply: Reply, message: str) -> None:
    state.trouble = times(9, reply)
    with pytest.raises(RefusedError, match=message) as caught:
        ask(*GENERATE)
    assert caught.value.status == reply[0]
    assert ask.pauses == []


def test_a_rejection_reaches_all_ranks_as_one() -> None:
    error = RefusedError("no key", 401)
    error.shared = True
    other = pickle.loads(pickle.dumps(error))
    assert isinstance(other, RefusedError)
    assert (str(other), other.status, other.shared) == ("no key", 401, True)


def test_the_api_key_is_sent(ask: Ask, state: State) -> None:
    state.key = "secret"
    assert ask(*GENERATE, key="secret")
    with pytest.raises(RefusedError, match="EDGE_GRPO_API_KEY"):
        ask("facts", key="other")


def without(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(choice: dict[str, Any]) -> None:
        inner: Any = choice
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("token_ids"),
        without("logprobs"),
        without("finish_reason"),
        without("weight_versions"),
        without("logprobs", "content", 0, "logprob"),
        lambda choice: choice.update(logprobs=None),
        lambda choice: choice.update(token_ids=["x"]),
        lambda choice: choice["logprobs"]["content"][0].update(logprob=None),
    ],
)
def test_an_answer_that_lacks_something_is_never_used(ask: Ask, state: State, change: Any) -> None:
    state.change = change
    with pytest.raises(ServerError, match=r"gave an answer on /inference/v1/generate that cannot be read"):
        ask(*GENERATE)


@pytest.mark.parametrize("reply", [(200, b"no JSON"), (200, [1]), (200, {"choices": []}), (200, {"choices": [1, 2]})])
def test_other_answers_are_never_used(ask: Ask, state: State, reply: Reply) -> None:
    state.trouble = times(1, reply)
    with pytest.raises(ServerError, match=r"gave an answer on /inference/v1/generate that cannot be read"):
        ask(*GENERATE)


def test_log_probs_of_other_tokens_are_never_used(ask: Ask, state: State) -> None:
    state.change = lambda choice: choice["logprobs"]["content"][1].update(token_id=5)
    with pytest.raises(ServerError, match="log-probs for other tokens"):
        ask(*GENERATE)


def test_servers_that_are_something_else(ask: Ask, state: State) -> None:
    assert ask("facts").name == "policy"
    state.settings = {"protocol": 2}
    with pytest.raises(ServerError, match="speaks version 2 of the protocol, wanted 1"):
        ask("facts")
    state.settings = {"vocabulary": None}
    with pytest.raises(ServerError, match="cannot be read"):
        ask("facts")
    state.trouble = times(1, (404, {"detail": "Not Found"}), of="/edge_grpo")
    with pytest.raises(ServerError, match="was not started by `edge-grpo serve`; start it with"):
        ask("facts")


# --- weights ----------------------------------------------------------------------------------------------------------

ROUTES = ["/pause", "/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"]


def update(folder: Path) -> tuple[str, dict[str, str], str]:
    return "update_weights", {"path": str(folder)}, "0123456789ab:1"


def test_weights_are_replaced_in_order(ask: Ask, state: State) -> None:
    ask(*update(state.path))
    assert [path for path, _ in state.asked] == ROUTES
    assert ask("weight_version") == state.version == "0123456789ab:1"
    assert state.go.is_set()


@pytest.mark.parametrize("route", ROUTES)
def test_a_failure_on_the_way_is_repeated_from_the_start_and_never_leaves_the_server_paused(
    ask: Ask, state: State, route: str
) -> None:
    state.trouble = times(1, (0, None), of=route)
    ask(*update(state.path))
    assert state.version == "0123456789ab:1"
    assert state.go.is_set()
    state.trouble = times(99, (500, b"dead"), of=route)
    with pytest.raises(ServerError, match=r"failed \(500: dead\)(, in 3 attempts)?; its log says why"):
        ask(*update(state.path))
    assert state.go.is_set() or route == "/resume"


def test_weights_that_the_server_rejects_are_told_at_once(ask: Ask, state: State, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=rf"rejected the weights: {tmp_path} holds 0 tensors, and not lm_head|embed"):
        ask(*update(tmp_path))
    assert ask.pauses == []
    assert state.version == "default"
    assert state.go.is_set()


def test_an_update_that_a_killed_process_left_open_is_ended_first(ask: Ask, state: State) -> None:
    state.updating = True
    state.go.clear()
    ask(*update(state.path))
    assert state.version == "0123456789ab:1"
    assert state.go.is_set()


# --- waiting ----------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """What a signal raises."""


def test_a_signal_ends_the_wait_and_cancels_what_runs() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    def interrupt(*_: Any) -> None:
        raise Interrupted

    background, before = Background(), signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            background.run(work())
    finally:
        signal.signal(signal.SIGALRM, before)
        background.close()
    assert ended == ["cancelled"]
    background.close()


def test_the_first_failure_cancels_the_others() -> None:
    ended: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ServerError("one")

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    background = Background()
    with pytest.raises(ServerError, match=r"^one$"):
        background.run(together([waits(), fails(), waits()]))
    assert ended == ["cancelled"] * 2
    background.close()
