r"""How much of the machine's product rate a training pass reaches, in float32 and in bf16, with a 135M model.

    make bench ARGS=update
    .venv/bin/python benchmarks/update.py --peers     plain transformers in each dtype as well

Forward and backward pass of ``policy.score`` on 8 rows of 256 tokens, the second half of each scored. All rows are
different from the first token on, so nothing is shared between them. Useful work in FLOP, with W the weights that take
part in matrix products:

.. math:: 6 \, W_{\text{layers}} \, n_{\text{tokens}} + 6 \, W_{\text{head}} \, n_{\text{scored}}

2 FLOP per weight and token forward and 4 backward; products of queries with keys, norms and whatever is computed again
in the backward pass do not count. A share is that rate over the FLOP/s of a product of 2048 x 2048 in the same
precision, measured in the same round. ``model.dtype`` float32 and bfloat16 alternate.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Figures,
    Side,
    alternate,
    command_line,
    machine,
    over,
    print_figures,
    product_rate,
    shown,
    table,
    worst,
)
from shapes import SMOLLM2_135M, smollm2_135m
from torch import Tensor

from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.loading import load_policy

KEYS = ("update_135m", "update_135m_float32_share", "update_135m_bf16_share", "update_135m_bf16_over_float32")
BARS = (0.60, 0.40, 2.5)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """``rows`` of ``tokens`` tokens, the second half of each scored, for a model of a changed shape."""

    rows: int = 8
    tokens: int = 256
    shape: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, Any]:
        """The model's shape."""
        return SMOLLM2_135M | dict(self.shape)

    @property
    def count(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.tokens

    @property
    def flop(self) -> float:
        """Useful work (see the head of this file)."""
        return flop(self.sizes, tokens=self.count, scored=self.rows * (self.tokens - self.tokens // 2))

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, attention and mask."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, self.sizes["vocab_size"], (self.rows, self.tokens), generator=generator)
        attention, mask = (torch.ones_like(ids, dtype=torch.bool) for _ in range(2))
        mask[:, : self.tokens // 2] = False
        return ids, attention, mask


def weights_of_layers(shape: Mapping[str, Any]) -> int:
    """Weights of all layers' matrices: queries, keys, values, output, and the three of the gated feed-forward part."""
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    width = shape.get("head_dim") or hidden // heads
    attention = 2 * hidden * heads * width + 2 * hidden * shape["num_key_value_heads"] * width
    return int(shape["num_hidden_layers"] * (attention + 3 * hidden * shape["intermediate_size"]))


def flop(shape: Mapping[str, Any], *, tokens: int, scored: int) -> float:
    """Useful FLOP of forward and backward pass (see the head of this file)."""
    head = int(shape["hidden_size"] * shape["vocab_size"])
    return 6.0 * (weights_of_layers(shape) * tokens + head * scored)


def ours(model: str, work: Work, dtype: str) -> Side:
    """Seconds of a pass of ``policy.score``."""
    policy = load_policy(ModelSettings(path=model, device="cpu", dtype=dtype))  # type: ignore[arg-type]
    ids, attention, mask = work.inputs()

    def side(_: int) -> float:
        began = time.perf_counter()
        with policy.training():
            (-policy.score(ids, attention, mask, temperature=1.0).logprobs[mask].mean()).backward()
        spent = time.perf_counter() - began
        policy.model.zero_grad(set_to_none=True)
        return spent

    return side


def plain(model: str, work: Work, dtype: torch.dtype, *, autocast: bool) -> Side:
    """Seconds of a pass of transformers: logits of the second half, their log-softmax, and its gradient."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    ids, attention, _ = work.inputs()
    scored = work.tokens - work.tokens // 2

    def side(_: int) -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = network(ids, attention_mask=attention.long(), use_cache=False, logits_to_keep=scored + 1)
        logprobs = torch.log_softmax(output.logits[:, :-1].float(), dim=-1)
        (-logprobs.gather(-1, ids[:, -scored:, None]).mean()).backward()
        spent = time.perf_counter() - began
        network.zero_grad(set_to_none=True)
        return spent

    return side


def report(work: Work, seconds: Mapping[str, list[float]], rates: Mapping[str, list[float]]) -> Iterator[list[str]]:
    """A row per side: seconds, tokens/s, GFLOP/s, the product rate of its precision, and its share of that."""
    for name, own in seconds.items():
        if not own:
            yield [name, *["-"] * 5]
            continue
        rate = rates["bfloat16" if "bf" in name else "float32"]
        speed = [work.flop / each for each in own]
        share = over(speed, rate)
        yield [
            name,
            shown(own, 3),
            shown(work.count / statistics.median(own), 0),
            shown([each / 1e9 for each in speed], 0),
            shown([each / 1e9 for each in rate], 0),
            shown(None if share is None else 100 * share, 1, " %"),
        ]


def measure(*, quick: bool = False, peers: bool = False, work: Work = Work(), products: int = 2048) -> Figures:
    """Shares of the product rate in both precisions, and how much faster bf16 is."""
    with tempfile.TemporaryDirectory() as folder:
        model = smollm2_135m(Path(folder), **work.shape)
        sides = {name: ours(model, work, name) for name in PRECISIONS}
        if peers:
            sides |= {f"transformers, {name}": plain(model, work, d, autocast=False) for name, d in PRECISIONS.items()}
            sides["transformers, bf16 autocast"] = plain(model, work, torch.float32, autocast=True)
        rated: dict[str, Side] = {
            f"products, {name}": lambda _, d=dtype: product_rate(d, size=products)  # type: ignore[misc]
            for name, dtype in PRECISIONS.items()
        }
        found = alternate(sides | rated, 2 if quick else 7)
    rates = {name: found[f"products, {name}"] for name in PRECISIONS}
    seconds = {name: found[name] for name in sides}
    head = ["side", "seconds", "tokens/s", "GFLOP/s", "products, GFLOP/s", "share"]
    print(f"{work.flop / 1e12:.3f} TFLOP, {work.count} tokens, {torch.get_num_threads()} threads")
    print(table(head, list(report(work, seconds, rates))), flush=True)
    shares = [over([work.flop / each for each in seconds[name]], rates[name]) for name in PRECISIONS]
    parts = (*shares, over(seconds["float32"], seconds["bfloat16"]))
    return dict(zip(KEYS, (worst(list(zip(parts, BARS, strict=True))), *parts), strict=True))


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = command_line(__doc__)
    parser.add_argument("--peers", action="store_true", help="plain transformers as well")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    print_figures(measure(quick=arguments.quick, peers=arguments.peers))


if __name__ == "__main__":
    main()
