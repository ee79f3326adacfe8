"""Llama's architecture computed without padding and with each prompt once: Llama, Mistral, Qwen2 and Qwen3."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from edge_grpo.models.compute import Compute
from edge_grpo.models.head import Head
from edge_grpo.models.kernels import pad, products, rms_norm, rotate, unpad
from edge_grpo.models.packing import Bin, Packing

__all__ = ["SCORES", "Attend", "Dense", "Heads"]

_FAMILIES: Final = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROTATIONS: Final = ("default", "linear", "llama3", "yarn")  # others change with the length of the longest row

SCORES: Final = 2**23  # attention scores of a layer that are kept for the backward pass


class Heads(NamedTuple):
    """Queries, keys and values of a layer, rotated to the tokens' positions."""

    queries: Float[Tensor, "tokens heads dim"]
    keys: Float[Tensor, "tokens kv_heads dim"]
    values: Float[Tensor, "tokens kv_heads dim"]


Layer = Callable[[Tensor, int, tuple[Tensor, Tensor], "Attend"], Tensor]
"""A layer: hidden states, its number, cosine and sine of the tokens' angles, and what they attend to."""

Attend = Callable[[int, Heads], Float[Tensor, "tokens heads dim"]]
"""What the tokens of layer number ... attend to: the queries' weighted sums of values."""


class _Parts(NamedTuple):
    """The modules of a layer, looked up once: many small passes would spend their time on that."""

    before: nn.Module
    queries: nn.Module
    keys: nn.Module
    values: nn.Module
    normed: tuple[nn.Module, nn.Module] | None
    out: nn.Module
    between: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module

    @classmethod
    def of(cls, layer: Any) -> "_Parts":
        block, mlp = layer.self_attn, layer.mlp
        return cls(
            before=layer.input_layernorm,
            queries=block.q_proj,
            keys=block.k_proj,
            values=block.v_proj,
            normed=(block.q_norm, block.k_norm) if hasattr(block, "q_norm") else None,
            out=block.o_proj,
            between=layer.post_attention_layernorm,
            gate=mlp.gate_proj,
            up=mlp.up_proj,
            down=mlp.down_proj,
        )


class Dense(nn.Module):
    """The layers of a model, run over tokens in one line; who attends to what is the caller's to say.

    The weights are read from the model's own modules, in the dtype in which passes compute; it has none of its own.

    Args:
        network: the model.
        cast: gives a weight in the dtype of the passes, with its gradient flowing back.
    """

    def __init__(self, network: PreTrainedModel, cast: Compute) -> None:
        super().__init__()
        self.cast = cast
        self._network = (network,)  # in a tuple, because the weights must not be listed twice
        first = network.model.layers[0].self_attn
        self.scale: float = first.scaling
        self.kv_shape = (network.config.num_key_value_heads, first.head_dim)
        self._turns: list[tuple[Tensor, Tensor]] = []
        self.layers: list[Layer] = [partial(self._layer, layer, _Parts.of(layer)) for layer in network.model.layers]

    @property
    def network(self) -> PreTrainedModel:
        """The model."""
        return self._network[0]

    @staticmethod
    def supports(network: PreTrainedModel) -> bool:
        """Whether a model is of this architecture, in all that its configuration and modules say."""
        config = network.config
        windows = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
        if (
            type(network).__name__ not in _FAMILIES
            or not type(network).__module__.startswith("transformers.models.")
            or config.hidden_act != "silu"
            or (config.rope_parameters or {}).get("rope_type") not in _ROTATIONS
            or windows
            or (getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None))
        ):
            return False
        if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
            return False  # they would never be called
        body: Any = network.model
        return type(body.embed_tokens) is nn.Embedding and all(
            _is_linear(module)
            for layer in body.layers
            for module in (*layer.self_attn.children(), *layer.mlp.children())
            if hasattr(module, "in_features")
        )

    def forward(
        self,
        ids: Int[Tensor, " tokens"],
        position: Int[Tensor, " tokens"],
        attend: Attend,
        source: Int[Tensor, " chosen"] | slice = slice(None),
    ) -> Float[Tensor, "chosen vocabulary"]:
        """Raw logits of what follows some tokens.

        Args:
            ids: the tokens.
            position: each one's place in its row.
            attend: what they attend to.
            source: the tokens whose successors are asked for; by default, all.
        """
        return Head.of(self.network).logits(self.run(ids, position, attend)[source], self.cast)

    def hidden(self, packing: Packing) -> Float[Tensor, "tokens dim"]:
        """Hidden states of all packed tokens, as the head reads them."""
        return self.run(packing.ids, packing.position, self.attention(packing))

    def attention(self, packing: Packing) -> Attend:
        """What packed tokens attend to: those of their own row before them."""
        sizes = [sum(each.sizes) for each in packing.bins]
        device = packing.ids.device
        masks = [
            [_mask(each.prompt, shelf.longest, self.dtype, device) for shelf in each.shelves] for each in packing.bins
        ]

        def attend(_: int, heads: Heads) -> Tensor:
            split = zip(*(column.split(sizes) for column in heads), strict=True)
            parts = zip(packing.bins, masks, split, strict=True)
            return torch.cat([out for own, mask, part in parts for out in _attend(own, mask, Heads(*part), self.scale)])

        return attend

    def run(
        self, ids: Int[Tensor, " tokens"], position: Int[Tensor, " tokens"], attend: Attend
    ) -> Float[Tensor, "tokens dim"]:
        """All layers and the last norm."""
        body: Any = self.network.model
        x = F.embedding(ids, self.cast(body.embed_tokens.weight), body.embed_tokens.padding_idx)
        turn = self._angles(x, position)
        for number, layer in enumerate(self.layers):
            x = layer(x, number, turn, attend)
        return self._norm(body.norm, x)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which passes compute."""
        return self.cast.dtype

    @property
    def num_layers(self) -> int:
        """How many layers attend."""
        return len(self.layers)

    def _angles(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each token's angles; those of all positions so far are kept."""
        highest = int(position.max()) + 1
        if not self._turns or self._turns[0][0].shape[0] < highest or self._turns[0][0].device != x.device:
            with torch.inference_mode(False), torch.no_grad():
                places = torch.arange(2 * highest, device=x.device)
                cos, sin = self.network.model.rotary_emb(
                    torch.empty(0, dtype=self.dtype, device=x.device), places[None]
                )
            half = cos.shape[-1] // 2
            self._turns = [(cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous())]
        cos, sin = self._turns[0]
        return cos.index_select(0, position), sin.index_select(0, position)

    def _layer(
        self, layer: Any, parts: _Parts, x: Tensor, number: int, turn: tuple[Tensor, Tensor], attend: Attend
    ) -> Float[Tensor, "tokens dim"]:
        """A layer; its activations are computed again in the backward pass if the model asks for that."""
        if torch.is_grad_enabled() and layer.training and layer.gradient_checkpointing:
            recomputed: Tensor = checkpoint(self._block, parts, x, number, turn, attend, use_reentrant=False)
            return recomputed
        return self._block(parts, x, number, turn, attend)

    def _block(
        self, parts: _Parts, x: Tensor, number: int, turn: tuple[Tensor, Tensor], attend: Attend
    ) -> Float[Tensor, "tokens dim"]:
        read = self._norm(parts.before, x)
        queries, keys, values = (
            self._linear(module, read).unflatten(-1, (-1, self.kv_shape[1]))
            for module in (parts.queries, parts.keys, parts.values)
        )
        if parts.normed:
            queries, keys = (self._norm(*pair) for pair in zip(parts.normed, (queries, keys), strict=True))
        heads = Heads(rotate(queries, *turn), rotate(keys, *turn), values)
        x = x + self._linear(parts.out, attend(number, heads).flatten(-2))
        read = self._norm(parts.between, x)
        return x + self._linear(parts.down, F.silu(self._linear(parts.gate, read)) * self._linear(parts.up, read))

    def _norm(self, module: Any, x: Tensor) -> Tensor:
        return rms_norm(x, self.cast(module.weight), module.variance_epsilon)

    def _linear(self, module: Any, x: Tensor) -> Tensor:
        """A projection, with its adapters where it has some and they are on."""
        adapted = type(module) is not nn.Linear
        base = module.base_layer if adapted else module
        out = self.cast.linear(x, base.weight, base.bias)
        if not adapted or module.disable_adapters or module.merged:
            return out
        for name in module.active_adapters:
            inner = self.cast.linear(x, module.lora_A[name].weight)
            out = out + self.cast.linear(inner, module.lora_B[name].weight) * module.scaling[name]
        return out


def _attend(own: Bin, masks: list[Tensor | None], heads: Heads, scale: float) -> Iterator[Tensor]:
    """Attention within a bin: that of its prompts, then that of its answers to their prompts and to themselves."""
    of_prompts, *of_answers = zip(*(column.split(own.sizes) for column in heads), strict=True)
    queries, keys, values = (_rows(column, own.prompt) for column in of_prompts)
    yield _flat(_weighted(queries, keys, values, None, scale))
    for shelf, mask, answers in zip(own.shelves, masks, of_answers, strict=True):
        if shelf.num_tokens == 0:
            continue
        padded = answers if shelf.padding is None else [pad(column, *shelf.padding) for column in answers]
        asking, *later = (_rows(column, shelf.longest) for column in padded)
        seen, found = (
            torch.cat([before.index_select(0, shelf.prompt_of), after], dim=2)
            for before, after in zip((keys, values), later, strict=True)
        )
        out = _flat(_weighted(asking, seen, found, mask, scale))
        yield out if shelf.padding is None else unpad(out, shelf.padding[1])


def _weighted(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of queries to all keys up to their own: ``mask`` says the same, None if there are as many of each.

    On a GPU, a mask would rule out the kernel that keeps no scores. For short rows in bf16 on a CPU, products are
    several times as fast as the fused kernel.
    """
    rows, heads, length, dim = queries.shape
    if queries.is_cuda:
        return _causal(queries, keys, values, scale)
    small = rows * heads * length * keys.shape[2] <= SCORES
    if mask is None or not small or queries.dtype != torch.bfloat16:
        causal = mask is None
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True
        )
    shared = keys.shape[1]  # heads that share keys, as if they were a longer row
    scores = products(queries.reshape(rows, shared, -1, dim), keys).mul_(scale).add_(mask.repeat(heads // shared, 1))
    return (scores.softmax(-1).to(values.dtype) @ values).view(queries.shape)


def _causal(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """The same without a mask: the last query sees all keys."""
    keys, values = (each.repeat_interleave(queries.shape[1] // each.shape[1], dim=1) for each in (keys, values))
    seen: Any = causal_lower_right(queries.shape[2], keys.shape[2])
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, scale=scale)


def _rows(column: Float[Tensor, "tokens heads dim"], length: int) -> Float[Tensor, "rows heads length dim"]:
    """Tokens by row, as attention takes them."""
    rows: Tensor = column.unflatten(0, (-1, length)).transpose(1, 2)
    return rows


def _flat(column: Float[Tensor, "rows heads length dim"]) -> Float[Tensor, "tokens heads dim"]:
    """Rows in one line again."""
    return column.transpose(1, 2).flatten(0, 1)


def _mask(prompt: int, answer: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "answer keys"] | None:
    """What an answer's tokens attend to: all of the prompt, and themselves up to the token itself; 0 or -inf."""
    if device.type == "cuda":
        return None
    later = torch.full((answer, answer), -torch.inf, dtype=dtype, device=device).triu_(1)
    return torch.cat([later.new_zeros((answer, prompt)), later], dim=1)


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a plain projection, or one with plain adapters."""
    if type(module) is nn.Linear:
        return True
    if type(module).__module__ != "peft.tuners.lora.layer" or type(module).__name__ != "Linear":
        return False
    adapters: Any = module
    return not adapters.lora_variant and not any(adapters.lora_bias.values())
