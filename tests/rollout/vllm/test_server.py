import json

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.rollout.vllm.server import API_KEY, Installed, Server, complaint, is_loopback, length_limit

CPU = Installed("/venv/bin/python", "0.32.0", "cpu")
GPU = Installed("/venv/bin/python", "0.32.0", "cuda")
CONFIG = {
    "max_position_embeddings": 8192,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
}


def server(installed: Installed = CPU, **settings: object) -> Server:
    return Server(**{"folder": "/model", "config": CONFIG, "installed": installed, **settings})


def options(one: Server) -> dict[str, str]:
    """The words that follow each option."""
    words = one.command()
    return {name: after for name, after in zip(words, [*words[1:], ""], strict=True) if name.startswith("--")}


def environment(one: Server, **user: str) -> dict[str, str]:
    return one.environment(user, parent=77, memory_gib=16.0, cores=8)


def test_the_command_serves_the_model_with_all_that_training_relies_on() -> None:
    one = server(port=8123, extra=("--seed", "3"))
    assert one.command()[:3] == ["/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    found = options(one)
    assert found["--model"] == "/model"
    assert found["--served-model-name"] == "policy"
    assert (found["--host"], found["--port"]) == ("127.0.0.1", "8123")
    assert found["--logprobs-mode"] == "processed_logprobs"
    assert json.loads(found["--weight-transfer-config"]) == {"backend": "edge_grpo"}
    assert {"--worker-extension-cls", "--middleware", "--enable-scale-out"} <= found.keys()
    assert one.command()[-2:] == ["--seed", "3"]


def test_a_cpu_computes_as_the_policy_does_there_and_a_gpu_in_half_precision() -> None:
    assert options(server(CPU))["--dtype"] == "float32"
    assert options(server(GPU))["--dtype"] == "bfloat16"
    assert options(server(GPU, dtype="float16"))["--dtype"] == "float16"
    assert {"--enforce-eager", "--no-enable-chunked-prefill"} <= set(server(CPU).command())
    assert {"--enforce-eager", "--no-enable-chunked-prefill"}.isdisjoint(server(GPU).command())


def test_the_length_limit_is_the_models_context_within_reason() -> None:
    assert options(server(CPU))["--max-model-len"] == "4096"
    assert options(server(GPU))["--max-model-len"] == "8192"
    assert options(server(CPU, max_model_len=8000))["--max-model-len"] == "8000"
    assert "--max-model-len" not in options(server(config={}))
    assert length_limit({"text_config": {"max_position_embeddings": 5}}) == 5
    with pytest.raises(ConfigError, match="got 9000, but the model's context is 8192"):
        server(max_model_len=9000)


def test_adapters_get_the_next_rank_that_vllm_has() -> None:
    assert options(server(lora_rank=12))["--max-lora-rank"] == "16"
    assert "--enable-lora" in server(lora_rank=12).command()
    assert "--enable-lora" not in server().command()
    assert environment(server(lora_rank=12))["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    with pytest.raises(ConfigError, match="up to rank 512"):
        server(lora_rank=513)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("other",), "got a second model, 'other'"),
        (("--port=3",), "vLLM's --port is set by --port"),
        (("--seed", "1", "--max_model_len", "5"), "--max-model-len is set by --max-model-len"),
        (("--api-key", "x"), f"set by the environment variable {API_KEY}"),
        (("--logprobs-mode", "raw_logprobs"), "cannot be changed"),
    ],
)
def test_options_that_would_contradict_are_rejected(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        server(extra=words)


def test_a_cpu_gets_an_environment_without_traps() -> None:
    found = environment(server(tensor_parallel=2))
    assert found["TORCHDYNAMO_DISABLE"] == "1"
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert found["OMP_NUM_THREADS"] == "4"
    assert found["VLLM_SERVER_DEV_MODE"] == "1"
    assert found["EDGE_GRPO_SERVE_PID"] == "77"
    assert found["PYTHONPATH"].endswith("inside")
    assert "TORCHDYNAMO_DISABLE" not in environment(server(GPU))


def test_the_users_own_settings_win_but_not_over_what_is_needed() -> None:
    found = environment(
        server(), OMP_NUM_THREADS="3", VLLM_CPU_KVCACHE_SPACE="9", VLLM_SERVER_DEV_MODE="0", PATH="/bin"
    )
    assert (found["OMP_NUM_THREADS"], found["VLLM_CPU_KVCACHE_SPACE"], found["PATH"]) == ("3", "9", "/bin")
    assert found["VLLM_SERVER_DEV_MODE"] == "1"


def test_the_key_reaches_vllm_under_its_own_name_and_no_command_line() -> None:
    found = environment(server(), **{API_KEY: "secret", "PYTHONPATH": "/mine"})
    assert found["VLLM_API_KEY"] == "secret"
    assert API_KEY not in found
    assert found["PYTHONPATH"] != "/mine"
    assert "secret" not in " ".join(server().command())
    assert "VLLM_API_KEY" not in environment(server(), VLLM_API_KEY="another server's")


def test_the_cache_holds_all_sequences_if_a_quarter_of_the_memory_does() -> None:
    per_token = 2 * 30 * 3 * 64 * 4
    assert server(max_model_len=512, max_num_seqs=32).cache_gib(1000.0) == 1
    assert server(max_model_len=8192, max_num_seqs=64).cache_gib(1000.0) == -(-per_token * 8192 * 64 // 2**30)
    assert server(max_model_len=8192, max_num_seqs=64).cache_gib(16.0) == 4
    assert server(config={}).cache_gib(1000.0) == 4


@pytest.mark.parametrize(
    ("host", "near"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_only_this_machine_reaches_a_loopback_address(host: str, near: bool) -> None:
    assert is_loopback(host) is near


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("0.0.0.0", "http://127.0.0.1:8000"), ("::", "http://[::1]:8000")],
)
def test_a_server_on_all_addresses_is_reached_from_here(host: str, url: str) -> None:
    assert server(host=host).url == url


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("ValueError: first|  at x|v1.EngineDeadError: See stack trace (above).", "ValueError: first"),
        ("(W pid=7) ERROR [a.py:6] OSError: disk|RuntimeError: Engine core initialization failed.", "OSError: disk"),
        ("usage: api_server.py|api_server.py: error: no such option", "api_server.py: error: no such option"),
        ("core.ValidationError: 1 validation error for M|  Value error, too long [type=x]", "too long"),
        ("loading||almost there|", ""),
        ("", ""),
    ],
)
def test_the_reason_is_found_in_the_log(log: str, told: str) -> None:
    assert complaint(log.split("|")) == told
