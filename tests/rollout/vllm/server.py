"""A rollout server on this machine's loopback: the protocol of ``edge-grpo serve`` with a tiny model behind it.

It samples with this package's own decode loop from the weights that it was handed, and can be told to misbehave.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import torch
from safetensors.torch import load_file

from edge_grpo.base.records import Scene
from edge_grpo.config.sections import ModelSettings
from edge_grpo.data.pictures import ImageSettings, read_pictures
from edge_grpo.models.adapters import merged, quiet_peft
from edge_grpo.models.export import exported
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.stop_strings import StopStrings

Reply = tuple[int, Any]
"""An HTTP status and a JSON value; status 0 hangs up without an answer."""


@dataclass
class State:
    """What a server is, has been asked, and is to do wrong: ``trouble`` may replace the reply to a path and body."""

    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    trouble: Callable[[str, dict[str, Any]], Reply | None] = lambda _path, _body: None
    change: Callable[[dict[str, Any]], None] = lambda _choice: None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock, self.go = threading.Lock(), threading.Event()
        self.go.set()
        self.restart()

    def restart(self) -> None:
        """As started: the model's own weights, and no adapters."""
        self.policy = load_policy(ModelSettings(path=str(self.path)))
        self.names = {name: tuple(weight.shape) for name, weight in exported(self.policy)}
        self.version, self.updating, self.adapters = "default", False, dict[str, Policy]()
        self.engines: dict[int, DecodeEngine] = {}
        self.go.set()

    def paths(self, name: str) -> list[dict[str, Any]]:
        """The bodies of all requests to a path."""
        return [body for path, body in self.asked if path == name]

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "protocol": 1,
            "vllm": "0.32.0",
            "model": str(self.path),
            "served_name": "policy",
            "dtype": "float32",
            "max_model_len": 512,
            "max_num_seqs": 64,
            "vocabulary": self.policy.model.get_input_embeddings().weight.shape[0],
            "logprobs_mode": "processed_logprobs",
            "lora": True,
            "max_lora_rank": 16,
            "tensor_parallel": 1,
            "device": "cpu",
        } | self.settings


def reply(state: State, path: str, query: dict[str, str], body: dict[str, Any]) -> Reply:
    """The answer of a route, as the real server gives it."""
    match path:
        case "/edge_grpo":
            return 200, state.facts
        case "/weight_info":
            return 200, {"weight_version": state.version}
        case "/v1/models":
            own = {"id": "policy", "parent": None}
            return 200, {"data": [own, *({"id": name, "parent": "policy"} for name in state.adapters)]}
        case "/pause":
            assert query == {"mode": "wait"}
            state.go.clear()
            return 200, {"status": "paused"}
        case "/resume":
            state.go.set()
            return 200, {"status": "resumed"}
        case "/start_weight_update":
            if state.updating:
                return _error(500, "start_weight_update called while a weight update is already active.")
            state.updating = True
            return 200, {"message": "Weight update started"}
        case "/update_weights":
            return _take_over(state, Path(body["update_info"]["path"]))
        case "/finish_weight_update":
            if not state.updating:
                return _error(500, "finish_weight_update called without a matching start_weight_update.")
            state.updating, state.version = False, body.get("weight_version", state.version)
            return 200, {"message": "Weight update finished"}
        case "/v1/load_lora_adapter":
            base = load_policy(ModelSettings(path=str(state.path)))
            base.model.load_state_dict(state.policy.model.state_dict())
            state.adapters[body["lora_name"]] = _with_adapter(base, body["lora_path"])
            return 200, "Success"
        case "/v1/unload_lora_adapter":
            del state.adapters[body["lora_name"]]
            return 200, "Success"
        case "/inference/v1/generate":
            state.go.wait(30)
            with state.lock:
                return _generate(state, body)
    return 404, {"detail": "Not Found"}


def _error(status: int, message: str) -> Reply:
    return status, {"error": {"message": message, "type": "Error", "param": None, "code": status}}


def _take_over(state: State, folder: Path) -> Reply:
    """Read everything before the model is touched."""
    assert state.updating
    read: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        read |= load_file(file)
    shapes = {name: tuple(weight.shape) for name, weight in read.items()}
    if shapes != state.names:
        state.updating = False
        wrong = sorted(name for name in {*shapes, *state.names} if shapes.get(name) != state.names.get(name))
        inner = f"edge-grpo: {folder} holds {len(read)} tensors, and not {wrong[0]}"
        return _error(500, f"Worker failed with error '{inner}', please check the stack trace above")
    with torch.no_grad():
        for name, weight in exported(state.policy):  # which shares the model's memory
            weight.copy_(read[name])
    return 200, {"message": "Weights updated"}


def _with_adapter(policy: Policy, folder: str) -> Policy:
    from peft import PeftModel

    with quiet_peft():
        return Policy(merged(PeftModel.from_pretrained(policy.model, folder)), policy.tokenizer)


def _generate(state: State, body: dict[str, Any]) -> Reply:
    wish, ids, name = body["sampling_params"], tuple(body["token_ids"]), body["model"]
    if name != "policy" and name not in state.adapters:
        return _error(404, f"The model `{name}` does not exist.")
    policy = state.adapters.get(name, state.policy)
    engine = state.engines.get(id(policy))
    if engine is None or engine.policy is not policy:
        engine = state.engines[id(policy)] = DecodeEngine(policy, stop_ids=[0], pad_id=0)
    assert wish["ignore_eos"] is True
    assert wish.get("n", 1) == 1
    engine.stop_ids = tuple(wish["stop_token_ids"])
    engine.stop_strings = StopStrings(policy.tokenizer, wish.get("stop", ()))
    budget = min(wish["max_tokens"], state.facts["max_model_len"] - len(ids))
    sampling = Sampling(budget, wish["temperature"], wish["top_p"], wish["top_k"])
    scene = _scene(policy, ids, body["content_parts"]) if "content_parts" in body else None
    row = Request(ids, (wish.get("seed", 0),))
    if scene is not None:  # placeholders become the tokens of the pictures
        begun = policy.vision.encode(scene.text, scene.pictures, special=False)
        short = policy.tokenizer.encode(scene.text, add_special_tokens=False)
        row = Request((*begun, *ids[len(short) :]), row.seeds, scene)
    ((rollout,),) = engine.sample([row], sampling)
    (span,) = rollout.spans
    content = [
        {"token_id": token, "logprob": value, "rank": 1, "top_logprobs": []}
        for token, value in zip(span.token_ids, span.logprobs, strict=True)
    ]
    choice = {
        "index": 0,
        "finish_reason": "stop" if rollout.finished else "length",
        "token_ids": list(span.token_ids),
        "weight_versions": [{"version": state.version, "start": 0, "end": len(span.token_ids)}],
        "logprobs": {"content": content} if "logprobs" in wish else None,
    }
    state.change(choice)
    told = {"prompt_token_ids": list(row.prompt_ids)} if body.get("return_token_ids") else {}
    return 200, {"model": name, "choices": [choice], **told}


def _scene(policy: Policy, ids: tuple[int, ...], parts: list[dict[str, str]]) -> Scene:
    """Pictures and the text they stand in, from what was sent."""
    assert {part["type"] for part in parts} == {"image_url"}
    urls = [part["url"] for part in parts]
    pictures = read_pictures(urls, "content_parts", "sent", folder=Path(), images=ImageSettings(max_pixels=0))
    image = policy.tokenizer.convert_tokens_to_ids(policy.vision.processor.image_token)
    places = [place for place, token in enumerate(ids) if token == image]  # an answer may hold the token, too
    text = policy.tokenizer.decode(ids[: places[len(pictures) - 1] + 1])
    return Scene(text, pictures, len(policy.vision.encode(text, pictures, special=False)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State
    failed = False  # uvicorn hangs up after an error without saying so: the next request finds the connection closed

    def _handle(self) -> None:
        state, parts = self.state, urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        state.asked.append((parts.path, body))
        if state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
            status, value = 401, {"error": "Unauthorized"}
        else:
            found = state.trouble(parts.path, body)
            status, value = found or reply(state, parts.path, dict(parse_qsl(parts.query)), body)
        if status == 0 or self.failed:
            self.close_connection = True
            return
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.failed = status == 500

    do_GET = do_POST = _handle  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128
    state: State

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no failure."""
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.state.failures.append(error)


@contextmanager
def serving(path: Path, port: int = 0, **settings: Any) -> Iterator[tuple[str, State]]:
    """The address of a server for a model's folder, and its state."""
    state = State(path, settings)
    with listening(state, port) as url:
        yield url, state


@contextmanager
def listening(state: State, port: int = 0) -> Iterator[str]:
    """The address of a server with this state, while it listens."""
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"state": state}))
    server.state = state
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        state.go.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert not state.failures
