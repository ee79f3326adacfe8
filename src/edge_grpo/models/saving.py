"""The trained model as an ordinary Hugging Face folder, loaded again and scored before anyone relies on it."""

import copy
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edge_grpo.base.errors import EngineError
from edge_grpo.base.quiet import quiet_failures
from edge_grpo.models.adapters import listed, merged, quiet_peft
from edge_grpo.models.families import family_class
from edge_grpo.models.probe import portable, portable_attention
from edge_grpo.models.scoring import Scorer, causal

__all__ = ["check_folder", "probe", "probe_rows", "round_weights", "save"]

_ROWS, _TOKENS = 2, 24
_SHARE: Final = 0.25


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, dtype: torch.dtype) -> None:
    """Write the model and its tokenizer; adapters are merged in, and also saved in ``adapter/``.

    Every stage must give the log-probs of the one before, to rounding: the model, the adapters merged, the folder
    loaded again, ``adapter/`` loaded and merged again. Rounding the weights to ``dtype`` comes between, and is judged
    by none of them. Needs room for one more copy of the model in CPU memory, two with adapters.

    Args:
        model: the model, possibly inside peft's wrapper; unchanged.
        tokenizer: its tokenizer.
        folder: where to write.
        dtype: of the saved weights; a family's weights that must stay float32 do.
    Raises:
        EngineError: what was written is not what was trained.
        OSError: the disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = probe_rows(tokenizer, causal(model).get_input_embeddings().weight.shape[0])
    plain = model
    if hasattr(model, "peft_config"):
        trained = probe(model, rows)
        with quiet_peft():
            model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        plain = merged(_on_cpu(model))
        _compare(trained, probe(plain, rows), _dtype(plain), "merging its adapters changes it")
        _check_adapter(_on_cpu(model), folder / "adapter", rows, trained)
    if _dtype(plain) != dtype:
        plain = _on_cpu(plain) if plain is model else plain
        round_weights(plain, dtype)
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_folder(folder, plain, rows)


def probe_rows(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Int[Tensor, "rows tokens"]:
    """Rows of ordinary tokens from all over the vocabulary, always the same for a tokenizer."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    plain = [token for token in range(min(vocabulary, len(tokenizer))) if token not in special] or [0]
    places = torch.linspace(0, len(plain) - 1, _ROWS * _TOKENS).long()
    return torch.tensor(plain)[places].view(_TOKENS, _ROWS).T.contiguous()


def probe(model: Any, rows: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
    """Log-probs of the rows' tokens in nats, 0 for the first ones; autocast only where weights are not in float32."""
    scorer = Scorer(model, autocast=_dtype(model) != torch.float32).eval()
    ids = rows.to(scorer.device)
    every = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad(), portable_attention(causal(model)):
        scores = scorer(ids, every, every & (torch.arange(ids.shape[1], device=ids.device) > 0), temperature=1.0)
    logprobs: Tensor = scores.logprobs.cpu()
    return logprobs


def check_folder(folder: Path, written: PreTrainedModel, rows: Int[Tensor, "rows tokens"]) -> None:
    """Load a folder on the CPU, and compare its log-probs with those of the model that was written there.

    Raises:
        EngineError: they differ beyond rounding, or the folder cannot be loaded; names the weights that differ.
    """
    try:
        with quiet_failures():
            again: PreTrainedModel
            again, found = family_class(written.config).from_pretrained(
                folder,
                dtype=_dtype(written),
                attn_implementation=portable(written),
                use_safetensors=True,
                trust_remote_code=type(written).__module__.startswith("transformers_modules"),  # it runs already
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
    except Exception as error:
        raise EngineError(f"the model just written cannot be loaded again ({' '.join(str(error).split())})") from error
    if lost := sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]):
        raise EngineError(f"the model just written lacks the weights {listed(lost)} when it is loaded again")
    if changed := _differing(written, again):
        raise EngineError(f"the model just written has other weights when it is loaded again: {listed(changed)}")
    cause = "its configuration loses something when it is loaded again, for all weights are the same"
    exact = written.device == again.device  # the same arithmetic, whatever the dtype
    _compare(probe(written, rows), probe(again, rows), torch.float32 if exact else _dtype(written), cause)


def _check_adapter(model: Any, folder: Path, rows: Tensor, trained: Tensor) -> None:
    """Load the adapter that was written onto the model's own base weights, merge it, and compare."""
    from peft import PeftModel  # noqa: PLC0415 - slow to import

    with quiet_peft():
        base = model.unload()
        again = PeftModel.from_pretrained(base, folder)
    _compare(trained, probe(merged(again), rows), _dtype(base), "its adapter/ does not hold the trained adapters")


def _compare(ours: Tensor, theirs: Tensor, dtype: torch.dtype, cause: str) -> None:
    """Raise EngineError if log-probs differ by more than computing in ``dtype`` explains."""
    difference = float((ours - theirs).abs().mean())
    bound = _SHARE * torch.finfo(dtype).eps ** 0.5 * max(1.0, float(ours.abs().mean()))
    if not difference <= bound:  # NaN is a difference
        raise EngineError(
            f"the model to be saved is not the one that was trained: {cause} (log-probs differ by {difference:.2g} "
            f"nats per token, where rounding explains {bound:.2g})"
        )


def _differing(one: PreTrainedModel, two: PreTrainedModel) -> list[str]:
    """The weights of the first model that the second one lacks or has otherwise."""
    theirs = dict(two.named_parameters(remove_duplicate=False))
    return [
        name
        for name, weight in one.named_parameters(remove_duplicate=False)
        if name not in theirs or not torch.equal(weight.cpu().to(theirs[name].dtype), theirs[name])
    ]


def _on_cpu(model: Any) -> Any:
    """A copy of the model on the CPU; it leaves the GPU meanwhile, which has no room for two."""
    device = next(model.parameters()).device
    copied = copy.deepcopy(model.to("cpu"))
    model.to(device)
    return copied


def round_weights(network: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round the weights in place, as loading them in that dtype would: some families keep a few in float32."""
    kept = {*(network._keep_in_fp32_modules_strict or ())}
    if dtype == torch.float16:
        kept |= {*(network._keep_in_fp32_modules or ())}
    for name, weight in network.state_dict(keep_vars=True).items():  # buffers that are saved too
        if weight.is_floating_point() and kept.isdisjoint(name.split(".")):
            weight.data = weight.data.to(dtype)


def _dtype(model: Any) -> torch.dtype:
    """The dtype of most of a model's weights."""
    sizes: dict[torch.dtype, int] = {}
    for weight in causal(model).parameters():
        sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])
