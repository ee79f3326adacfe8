"""Where the tokens of a completion are in its text: for showing the origin and the entropy of each."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from edge_grpo.config.sections import BUNDLES
from edge_grpo.report.run import Run

__all__ = ["SHADES", "Tokens", "marks", "tokenizer_of"]

SHADES: Final = (0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5)
"""Nats per token at which each shade but the lightest begins."""

Tokens = Any
"""A ``tokenizers.Tokenizer``."""


def tokenizer_of(run: Run) -> Tokens | None:
    """The tokenizer of a run, from its own folder or its model's; None if no file of it is on this machine."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - slow imports, needed here only

    for file in _places(run):
        with suppress(Exception):  # the library raises nothing more special, not for a missing file either
            return Tokenizer.from_file(str(file))
    return None


def _places(run: Run) -> list[Path]:
    found = [run.path / "final" / "tokenizer.json"]
    name = run.tree.get("model", {}).get("path")
    if name in BUNDLES:
        found.append(Path(str(files("edge_grpo") / "bundled" / BUNDLES[name] / "tokenizer.json")))
    elif isinstance(name, str) and name:
        found.append(Path(name).expanduser() / "tokenizer.json")
        found += _cached(name)
    return found


def _cached(name: str) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        place = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:  # a path, not the name of a repository
        return []
    return [Path(place)] if isinstance(place, str) else []


def marks(row: Mapping[str, Any], tokenizer: Tokens | None) -> dict[str, Any]:
    """The tokens of a row of a rollout file, as places in its text.

    Returns:
        ``pieces``: the length of the text of each token, in UTF-16 units, after ``opened`` units that the prompt opened
        (0 for a token whose bytes make no character yet). ``shades``: a digit per token, its entropy by :data:`SHADES`,
        or ``-`` if it is unknown. ``origins``: pairs of an origin and its number of tokens. Empty if the tokens do not
        make up the text.
    """
    spans = row["spans"] or ()
    ids = [token for span in spans for token in span["token_ids"]]
    texts = [] if tokenizer is None else _placed(row["completion"], ids, tokenizer)
    if not any(texts):
        return {}
    return {
        "opened": _units(row["completion"]) - sum(map(_units, texts)),
        "pieces": [_units(piece) for piece in texts],
        "shades": "".join(_shade(value) for span in spans for value in _entropies(span)),
        "origins": [[span["origin"], len(span["token_ids"])] for span in spans],
    }


def _placed(text: str, ids: Sequence[int], tokenizer: Tokens) -> list[str]:
    """What each token adds to the end of a text; special ones that were left out of it add nothing.

    Empty if the tokens do not make up the text.
    """
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    found, end = [], len(text)
    for token, piece in reversed([*zip(ids, _decoded(tokenizer, ids), strict=False)]):
        if text.endswith(piece, 0, end):
            found.append(piece)
            end -= len(piece)
        elif token in special:
            found.append("")
        else:
            return []
    return found[::-1]


def _decoded(tokenizer: Tokens, ids: Sequence[int]) -> list[str]:
    """The text that each token adds."""
    from tokenizers.decoders import DecodeStream  # noqa: PLC0415

    stream = DecodeStream(ids=[], skip_special_tokens=False)
    try:
        return [stream.step(tokenizer, token) or "" for token in ids]
    except Exception:  # noqa: BLE001 - a token that this tokenizer does not have
        return []


def _entropies(span: Mapping[str, Any]) -> Sequence[float | None]:
    return span["entropies"] or [None] * len(span["token_ids"])


def _shade(entropy: float | None) -> str:
    return "-" if entropy is None or entropy != entropy else str(sum(entropy >= bound for bound in SHADES))  # noqa: PLR0124


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
