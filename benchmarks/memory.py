"""Memory of training by rank: measured on this machine's CPU, or computed for GPUs from the shape of a model.

    .venv/bin/python benchmarks/memory.py            # a 135M model in 1, 2 and 4 processes; needs 8 GB
    .venv/bin/python benchmarks/memory.py --table    # 0.5B to 32B on 1 to 64 GPUs, from the formulas of `Shape`

The first one takes an optimizer update in each process and prints a Markdown table of the bytes of weights, gradients
and optimizer moments that each holds, and of its resident memory. It fails if 2 processes need more than 0.6 of one's.
The second one prints the tables of docs/scaling.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 0.6
"""The largest share of one process's bytes that each of two may need."""

GB = 1e9
MICRO_BATCH, SEQUENCE, ROWS = 8, 2048, 64  # of the computed table: rows by tokens per pass, and rows decoded at once
_PLAIN = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed goes back to the system
COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2- or Llama-like model, and the memory that they imply with ``model.dtype=auto`` on GPUs.

    Weights, gradients and AdamW's two moments are float32; passes compute in bf16. Bytes, not counting allocator losses
    and the CUDA context (about 1 GB).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    head_dim: int
    bias: bool = True  # of queries, keys and values

    @property
    def kv(self) -> int:
        """Width of keys, and of values."""
        return self.kv_heads * self.head_dim

    @property
    def layer(self) -> int:
        """Weights of a layer."""
        q = self.heads * self.head_dim
        attention = 2 * self.hidden * q + 2 * self.hidden * self.kv + self.bias * (q + 2 * self.kv)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def outside(self) -> int:
        """Weights outside the layers: embeddings, head and last norm."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    @property
    def weights(self) -> int:
        """All weights."""
        return self.layers * self.layer + self.outside

    def state(self, ranks: int) -> float:
        """Weights, gradients and two moments per rank: 4 + 4 + 8 bytes per weight, divided."""
        return 16 * self.weights / ranks

    @property
    def whole(self) -> float:
        """The undivided copy that a rank samples from: 2 bytes per weight."""
        return 2 * self.weights

    @property
    def gathered(self) -> float:
        """What a pass gathers: two layers and all outside them, in bf16, and a layer's gradient in float32."""
        return 2 * (2 * self.layer + self.outside) + 4 * max(self.layer, self.outside)

    @property
    def kept(self) -> float:
        """Bytes per token that a layer keeps for the backward pass without checkpointing.

        Bf16 but for the norms, which compute in float32: 22 per hidden unit, 8 per intermediate one, 4 per unit of keys
        and values, 2 per unit of queries.
        """
        q = self.heads * self.head_dim
        return 22 * self.hidden + 8 * self.intermediate + 4 * self.kv + 2 * q

    def activations(self, tokens: int, *, checkpointing: bool) -> float:
        """Activations of a pass: every layer's, or every layer's input and one layer's."""
        kept = 2 * self.hidden * self.layers + self.kept if checkpointing else self.layers * self.kept
        return tokens * kept

    @property
    def logits(self) -> float:
        """Logits, log-probs and their gradient, of as many tokens as are computed at once (2**25 logits)."""
        return 3 * 4 * 2**25

    def cache(self, tokens: int) -> float:
        """Keys and values of tokens while sampling, in bf16."""
        return 2 * 2 * self.layers * self.kv * tokens

    def updating(self, ranks: int) -> float:
        """Peak of a rank during an update: in a pass with checkpointing; the optimizer's step needs nothing more."""
        passes = self.gathered + self.activations(MICRO_BATCH * SEQUENCE, checkpointing=True) + self.logits
        return self.state(ranks) + passes

    def sampling(self, ranks: int) -> float:
        """Peak of a rank while it samples in its own process: weights and moments, no gradients."""
        return 12 * self.weights / ranks + self.whole + self.cache(ROWS * SEQUENCE)


SMOLLM2_135M = Shape(576, 30, 9, 3, 1536, 49152, tied=True, head_dim=64, bias=False)
SHAPES = {
    "0.5B": Shape(896, 24, 14, 2, 4864, 151936, tied=True, head_dim=64),
    "1.5B": Shape(1536, 28, 12, 2, 8960, 151936, tied=True, head_dim=128),
    "7B": Shape(3584, 28, 28, 4, 18944, 152064, tied=False, head_dim=128),
    "32B": Shape(5120, 64, 40, 8, 27648, 152064, tied=False, head_dim=128),
}
"""The shapes of Qwen2.5."""


def tables() -> Iterator[str]:
    """The lines of the computed tables, in GB."""
    passes = f"activations of {MICRO_BATCH} x {SEQUENCE} tokens"
    yield f"| model | weights | gathered | {passes} | without checkpointing | logits | whole copy "
    yield f"| KV cache of {ROWS} x {SEQUENCE} tokens |\n|---|---|---|---|---|---|---|---|\n"
    for name, shape in SHAPES.items():
        held = [shape.activations(MICRO_BATCH * SEQUENCE, checkpointing=each) for each in (True, False)]
        cells = [shape.gathered, *held, shape.logits, shape.whole, shape.cache(ROWS * SEQUENCE)]
        yield f"| {name} | {shape.weights / 1e9:.2f}e9 | {' | '.join(f'{each / GB:.1f}' for each in cells)} |\n"
    yield "\n| model | | " + " | ".join(map(str, COUNTS)) + " |\n|---|---|" + "---|" * len(COUNTS) + "\n"
    for name, shape in SHAPES.items():
        for title, part in (("state", shape.state), ("updating", shape.updating), ("sampling", shape.sampling)):
            cells = [part(count) for count in COUNTS]
            yield f"| {name} | {title} | {' | '.join(f'{each / GB:.1f}' for each in cells)} |\n"


# --- measured ---------------------------------------------------------------------------------------------------------


def save_random(folder: Path, shape: Shape) -> Path:
    """A random model of a shape in bf16, as most are published, with the bundled model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from edge_grpo.bundled.tokenizer import build_tokenizer

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def measure(folder: Path) -> dict[str, float]:
    """On each rank: load the model, take one update, and count bytes; resident memory is only known on Linux."""
    import torch

    from edge_grpo.base.world import join_world
    from edge_grpo.config.sections import DistributedSettings, ModelSettings, TrainSettings
    from edge_grpo.models.loading import load_shared_policy
    from edge_grpo.models.sharding import local
    from edge_grpo.training.update import make_optimizer

    world, before = join_world(), resident()
    restart_peak()
    settings = ModelSettings(path=str(folder), device="cpu", dtype="float32")
    policy = load_shared_policy(settings, DistributedSettings(), world)
    loading = resident(peak=True) - before
    world.any(False)
    restart_peak()
    optimizer = make_optimizer(policy, TrainSettings())
    ids = torch.arange(64).reshape(1, 64) % 200
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    with policy.training():
        policy.score(ids, torch.ones_like(mask), mask, temperature=1.0).logprobs.sum().backward()
    optimizer.step()
    weights = [weight for _, weight in policy.trained()]
    moments = [each for state in optimizer.state.values() for each in state.values()]
    return {
        "weights": size(map(local, weights)),
        "gradients": size(local(weight.grad) for weight in weights if weight.grad is not None),
        "moments": size(map(local, moments)),
        "loading": loading,
        "updating": resident(peak=True) - before,
    }


def size(tensors: "Iterator[object]") -> float:
    """Bytes of tensors."""
    return float(sum(each.numel() * each.element_size() for each in tensors))  # type: ignore[attr-defined]


def resident(*, peak: bool = False) -> float:
    """Bytes of this process in physical memory; NaN if the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    found = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s*(\d+) kB", status, re.M)
    return 1024.0 * int(found[1]) if found else float("nan")


def restart_peak() -> None:
    """Measure the peak of resident memory from now on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("peaks of resident memory include what came before", file=sys.stderr)


def measured(folder: Path, ranks: int) -> list[dict[str, float]]:
    """What each of several processes measures; a single one is an ordinary, undivided run."""
    from edge_grpo.base.ranks import RENDEZVOUS

    with tempfile.TemporaryDirectory() as place:
        started = []
        for rank in range(ranks):
            job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            own = {name: str(value) for name, value in job.items()} | {RENDEZVOUS: f"{place}/rendezvous"}
            environment = os.environ | _PLAIN | (own if ranks > 1 else {})
            command = [sys.executable, __file__, "--worker", str(folder)]
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        found = [each.communicate()[0] for each in started]
    if any(each.returncode for each in started):
        raise SystemExit("a process failed")
    return [json.loads(text.splitlines()[-1]) for text in found]


def held(rank: Mapping[str, float]) -> float:
    """Bytes of weights, gradients and moments."""
    return rank["weights"] + rank["gradients"] + rank["moments"]


def report(found: Mapping[int, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """The lines of the measured table: of each count of processes, the one that holds most."""
    yield "| processes | weights | gradients | moments | sum | of one process | peak, loading | peak, updating |"
    yield "|---|---|---|---|---|---|---|---|"
    one = max(map(held, found[min(found)]))
    for ranks, own in found.items():
        most = max(own, key=held)
        parts = [most[name] for name in ("weights", "gradients", "moments")]
        peaks = [max(each[name] for each in own) for name in ("loading", "updating")]
        sums = [*parts, held(most)]
        cells = [*(f"{each / 1e6:.0f} MB" for each in sums), f"{held(most) / one:.3f}"]
        yield f"| {ranks} | {' | '.join([*cells, *(f'{each / 1e6:.0f} MB' for each in peaks)])} |"


def main() -> None:
    """Measure, or compute."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true", help="compute, for GPUs")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        from edge_grpo.base.world import leave

        print(json.dumps(measure(options.worker)))
        leave(0)
        return
    if options.table:
        sys.stdout.writelines(tables())
        return
    with tempfile.TemporaryDirectory() as place:
        folder = save_random(Path(place), SMOLLM2_135M)
        found = {ranks: measured(folder, ranks) for ranks in options.ranks}
    print("\n".join(report(found)))
    if {1, 2} <= found.keys() and max(map(held, found[2])) > LIMIT * held(found[1][0]):
        raise SystemExit(f"2 processes need more than {LIMIT} of one's memory")


if __name__ == "__main__":
    main()
