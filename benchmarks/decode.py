"""Sampling tokens per second of a 135M model: the decode loop here, transformers' `generate`, and vLLM for CPUs.

    make bench ARGS=decode

64 completions at once (8 prompts of 50 tokens x 8) of 64 tokens each at temperature 1, no early stop, one thread each.
The model has SmolLM2-135M's shape and random weights. This side runs with its default dtype, which counts, and in
float32; it also records log-probs and entropies. Every setting of a peer (float32 or bf16, and the dynamic or static
cache of `generate`; prefix caching on or off in vLLM, in bf16) runs one round, and its fastest takes part in the
comparison. Rounds alternate; a ratio is the median over rounds of tokens per second here over the peer's.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import (
    VLLM_PYTHON,
    Figures,
    Side,
    Unavailable,
    alternate,
    command_line,
    machine,
    over,
    print_figures,
    shown,
    table,
    threads,
    worst,
)
from shapes import SMOLLM2_135M, smollm2_135m

from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.rollout.engine import Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine

KEYS = ("decode_135m", "decode_135m_vs_generate", "decode_135m_vs_vllm")
BARS = {"generate": 2.0, "vLLM": 1.0}
END = 0  # the only token that ends an answer; it is hardly ever sampled, and tokens are counted
DTYPES = (("float32", torch.float32), ("bf16", torch.bfloat16))


@dataclass(frozen=True)
class Work:
    """``prompts`` of ``length`` tokens x ``group`` completions of ``tokens`` tokens, by a model of a changed shape."""

    prompts: int = 8
    group: int = 8
    length: int = 50
    tokens: int = 64
    shape: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Completions at once."""
        return self.prompts * self.group

    def drawn(self, number: int) -> list[list[int]]:
        """The prompts of a round: different in each, the same for all sides."""
        vocabulary = int((SMOLLM2_135M | dict(self.shape))["vocab_size"])
        generator = torch.Generator().manual_seed(number)
        found: list[list[int]] = torch.randint(1, vocabulary, (self.prompts, self.length), generator=generator).tolist()
        return found


def ours(model: str, work: Work, dtype: str) -> Side:
    """Tokens per second of the decode loop, one call per round."""
    policy = load_policy(ModelSettings(path=model, device="cpu", dtype=dtype))  # type: ignore[arg-type]
    engine = DecodeEngine(policy, stop_ids=(END,), pad_id=END, max_rows=work.rows)

    def side(number: int) -> float:
        seeds = iter(range(number * work.rows, (number + 1) * work.rows))
        asked = [Request(tuple(ids), tuple(next(seeds) for _ in range(work.group))) for ids in work.drawn(number)]
        began = time.perf_counter()
        groups = engine.sample(asked, Sampling(work.tokens))
        return sum(len(one.completion_ids) for group in groups for one in group) / (time.perf_counter() - began)

    return side


def generate(model: str, work: Work, dtype: torch.dtype, cache: str | None) -> Side:
    """Tokens per second of transformers' `generate`, one call per round."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    network = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=work.group,
        max_new_tokens=work.tokens,
        pad_token_id=END,
        cache_implementation=cache,
    )

    def side(number: int) -> float:
        ids = torch.tensor(work.drawn(number))
        began = time.perf_counter()
        found = network.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        return float(found[:, ids.shape[1] :].numel() / (time.perf_counter() - began))

    network.generation_config.eos_token_id = None
    return side


@contextmanager
def vllm(model: str, work: Work, *, caching: bool, log: Path) -> Iterator[Side]:
    """Tokens per second of vLLM's offline engine on one thread, for the duration of the block.

    Raises:
        Unavailable: vLLM is not installed, or does not start.
    """
    if not VLLM_PYTHON.exists():
        raise Unavailable("no .venv-vllm; `make setup-vllm` creates it")
    sizes = {"--rows": work.rows, "--length": work.length + work.tokens, "--tokens": work.tokens}
    words = [str(VLLM_PYTHON), str(Path(__file__).with_name("vllm_side.py")), model]
    words += [str(word) for pair in sizes.items() for word in pair] + ["--prefix-caching"] * caching
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    needed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as sink:
        process = subprocess.Popen(
            words,
            env=defaults | own | needed,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    asking, answers = process.stdin, process.stdout

    def answer() -> str:
        line = answers.readline()
        if not line:
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            raise Unavailable(f"vLLM ended: {last[0] if last else 'no message'}")
        return line

    def side(number: int) -> float:
        asking.write(json.dumps({"prompts": work.drawn(number), "group": work.group}) + "\n")
        asking.flush()
        found = json.loads(answer())
        return float(found["tokens"] / found["seconds"])

    try:
        answer()
        yield side
    finally:
        asking.close()
        process.wait()


def fastest(family: str, makers: Mapping[str, Callable[[ExitStack], Side]], stack: ExitStack) -> dict[str, Side]:
    """The setting of a peer with the most tokens per second in one round after one to warm up; none if none runs."""
    best, chosen = 0.0, dict[str, Side]()
    kept = stack.enter_context(ExitStack())
    for name, make in makers.items():
        with ExitStack() as trial:
            try:
                side = make(trial)
                speed = [side(number) for number in range(2)][-1]
            except Unavailable as reason:
                print(f"{family}, {name}: does not run here ({reason})", flush=True)
                continue
            print(f"{family}, {name}: {speed:,.0f} tokens/s", flush=True)
            if speed > best:
                kept.close()
                kept.push(trial.pop_all())
                best, chosen = speed, {f"{family}, {name}": side}
    return chosen


def measure(*, quick: bool = False, work: Work = Work(), families: Collection[str] = tuple(BARS)) -> Figures:
    """Tokens per second here over those of each peer; None for those that do not run here or are left out."""
    rounds = 2 if quick else 5
    with threads(1), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = smollm2_135m(folder / "model", **work.shape)

        def offline(stack: ExitStack, *, caching: bool) -> Side:
            return stack.enter_context(vllm(model, work, caching=caching, log=folder / "vllm.log"))

        def through_generate(dtype: torch.dtype, cache: str | None, _: ExitStack) -> Side:
            return generate(model, work, dtype, cache)

        peers: dict[str, dict[str, Callable[[ExitStack], Side]]] = {
            "generate": {
                f"{name}, {cache or 'dynamic'} cache": partial(through_generate, dtype, cache)
                for name, dtype in DTYPES
                for cache in (None, "static")
            },
            "vLLM": {
                f"bf16, prefix caching {'on' if caching else 'off'}": partial(offline, caching=caching)
                for caching in (False, True)
            },
        }
        sides = {f"edge-grpo, {dtype}": ours(model, work, dtype) for dtype in ("auto", "float32")}
        chosen = {each: fastest(each, makers, stack) for each, makers in peers.items() if each in families}
        speeds = alternate(sides | {name: side for own in chosen.values() for name, side in own.items()}, rounds)
    default = speeds["edge-grpo, auto"]
    rows = [[name, shown(own, 0), shown(over(default, own))] for name, own in speeds.items()]
    print(table(["engine", "tokens/s: median (range)", "auto over it"], rows), flush=True)
    ratios = [next((over(default, speeds[name]) for name in chosen.get(family, ())), None) for family in BARS]
    return dict(zip(KEYS, (worst(list(zip(ratios, BARS.values(), strict=True))), *ratios), strict=True))


def main() -> None:
    """Measure, and print the figures as JSON."""
    arguments = command_line(__doc__).parse_args()
    print(machine(), flush=True)
    print_figures(measure(quick=arguments.quick))


if __name__ == "__main__":
    main()
