"""Sampling tokens per second in process and from a vLLM server on this machine's CPU, one thread each, as a table.

    make setup-vllm bench-engines

Both sample the same prompts in float32 at temperature 1, up to the same number of tokens, and never stop early. Rounds
alternate, and each figure is the median over rounds. The large model has the shape of a 135M one and random weights:
speed does not depend on them.
"""

import argparse
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edge_grpo.config.sections import BUNDLED, ModelSettings, VllmEngineSettings
from edge_grpo.models.loading import load_policy, load_tokenizer
from edge_grpo.rollout.engine import Engine, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.vllm.engine import VllmEngine

PROMPT, NO_STOP = 64, 0  # tokens; id 0 pads, and a model that has learned nothing hardly samples it


def large(folder: Path) -> str:
    """A model of the shape of SmolLM2-135M, with random weights and the bundled tokenizer."""
    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(folder)
    load_tokenizer(BUNDLED).save_pretrained(folder)
    return str(folder)


@contextmanager
def server(model: str, rows: int) -> Iterator[str]:
    """The address of a server for the duration of the block."""
    words = ["serve", model, "--port", "0", "--max-num-seqs", str(rows), "--max-model-len", "1024"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_grpo", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = next((hit[1] for line in process.stdout if (hit := re.search(r"urls=\[(\S+)\]", line))), None)
        if found is None:
            sys.exit("the server did not start")
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def speed(engine: Engine, rows: int, tokens: int, number: int) -> float:
    """Sampled tokens per second of one round."""
    generator = torch.Generator().manual_seed(number)
    prompts = torch.randint(3, 250, (rows, PROMPT), generator=generator).tolist()
    asked = [Request(tuple(prompt), (number * rows + row,)) for row, prompt in enumerate(prompts)]
    began = time.perf_counter()
    groups = engine.sample(asked, Sampling(tokens))
    return sum(len(one.completion_ids) for (one,) in groups) / (time.perf_counter() - began)


def compare(model: str, rows: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Tokens per second by engine, of alternating rounds after one that does not count."""
    policy = load_policy(ModelSettings(path=model, device="cpu"))
    with server(model, rows) as url, ExitStack() as stack:
        settings = VllmEngineSettings(urls=(url,))
        remote = VllmEngine(settings, policy=policy, stop_ids=(NO_STOP,), session=secrets.token_hex(6))
        stack.callback(remote.close)
        remote.sync(policy, 0)
        engines: dict[str, Engine] = {
            "in process": DecodeEngine(policy, stop_ids=(NO_STOP,), pad_id=0, max_rows=rows),
            "vLLM": remote,
        }
        found: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(rounds + 1):
            for name, engine in engines.items():
                found[name].append(speed(engine, rows, tokens, number))
    return {name: figures[1:] for name, figures in found.items()}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32, help="completions at once (default: 32)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per completion (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | rows | in process, tokens/s | vLLM, tokens/s | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("bundled (0.6M)", BUNDLED), ("135M, random weights", large(Path(folder)))):
            found = compare(model, arguments.rows, arguments.tokens, arguments.rounds)
            ours, theirs = (statistics.median(found[engine]) for engine in ("in process", "vLLM"))
            print(f"| {name} | {arguments.rows} | {ours:,.0f} | {theirs:,.0f} | {theirs / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
