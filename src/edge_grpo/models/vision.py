"""Pictures as a vision-language model reads them: the tokens they become, and the tensors that go with a pass."""

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    PROCESSOR_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, is_torchvision_available

from edge_grpo.base.errors import EngineError
from edge_grpo.base.quiet import quiet_failures
from edge_grpo.base.records import Picture, Scene
from edge_grpo.data.pictures import PLACEHOLDER, UnusableImageError, gradient, open_picture

__all__ = ["Inputs", "ModelVision", "older_template"]

Inputs = Mapping[str, Tensor]
"""Arguments of a model's ``forward`` besides tokens and attention; empty without pictures."""

_Made = tuple[tuple[int, ...], dict[str, Tensor]]  # the tokens of a prompt, and its tensors

_FILES: Final = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_PLACEHOLDERS: Final = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
KEPT_BYTES: Final = 2**29  # of tensors of pictures, so that a step makes them once
_BY_PLACE: Final = "type_ids"  # how names of tensors end that have a number for each token of the prompt
_ONE, _OTHER = "\ue000one\ue000", "\ue000other\ue000"  # placeholders for text


class ModelVision:
    """Makes token ids and tensors of prompts with pictures, with the model's own processor.

    Args:
        place: folder or hub name of the model.
        tokenizer: the model's.
        config: the model's; names the tokens that stand for images.
        trust_remote_code: whether Python code shipped with the model may run.
        keep_bytes: how many bytes of tensors may be kept; bounds memory and changes nothing else.
    """

    def __init__(
        self,
        place: str,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        *,
        trust_remote_code: bool = False,
        keep_bytes: int = KEPT_BYTES,
    ) -> None:
        self._place, self._tokenizer, self._trusted = place, tokenizer, trust_remote_code
        named = (getattr(config, name, None) for name in _PLACEHOLDERS)
        self._placeholders = torch.tensor([token for token in named if isinstance(token, int)], dtype=torch.long)
        self._kept: OrderedDict[tuple[str, tuple[Picture, ...], bool], _Made] = OrderedDict()
        self._kept_bytes, self._most_bytes = 0, keep_bytes

    @cached_property
    def processor(self) -> Any:
        """The model's processor, with the model's tokenizer; loaded when a picture needs it for the first time.

        Raises:
            EngineError: it cannot be loaded.
        """
        try:
            with quiet_failures():
                if is_torchvision_available():
                    processor = AutoProcessor.from_pretrained(self._place, trust_remote_code=self._trusted)
                    processor.tokenizer = self._tokenizer  # an adapter may have brought its own
                    return processor
                return _without_torchvision(self._place, self._tokenizer, trusted=self._trusted)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            remedy = "put its preprocessor_config.json and processor_config.json beside the model"
            raise EngineError(
                f"model.path: cannot load the image processor of '{self._place}' ({reason}); "
                f"{'install that package' if isinstance(error, ImportError) else remedy}"
            ) from error

    def save(self, folder: Path) -> None:
        """Copy the processor's files, so that the saved model reads images, too."""
        for name in _FILES:
            found = _file_of(self._place, name)
            if found and not (folder / name).exists():
                shutil.copyfile(found, folder / name)

    def marker(self) -> str:
        """What the chat template puts in the place of a picture, or else the processor's own placeholder."""
        return self._marker

    @cached_property
    def _marker(self) -> str:
        token = str(getattr(self.processor, "image_token", None) or PLACEHOLDER)
        parts = [{"type": "text", "text": _ONE}, {"type": "image"}, {"type": "text", "text": _OTHER}]
        if self._tokenizer.chat_template:
            with suppress(Exception):  # a template may want arguments
                asked = [{"role": "user", "content": parts}]
                shown = str(self._tokenizer.apply_chat_template(asked, tokenize=False))
                between = shown.partition(_ONE)[2].partition(_OTHER)[0]
                return between.strip() if token in between else token
        return token

    def encode(self, text: str, pictures: Sequence[Picture], *, special: bool) -> tuple[int, ...]:
        """Token ids of a rendered prompt, with as many for each picture as the model reads.

        Args:
            text: with a placeholder for each picture.
            pictures: in order.
            special: whether the tokenizer adds its own first token.
        Raises:
            UnusableImageError: one cannot be decoded, or the processor rejects the prompt.
        """
        return self._made(text, tuple(pictures), special)[0]

    def inputs(
        self, input_ids: Int[Tensor, "rows tokens"], scenes: Sequence[Scene | None], starts: Sequence[int] = ()
    ) -> dict[str, Tensor]:
        """What a pass over rows is given: their tokens as the model reads them, and the tensors of their pictures.

        A token that stands for an image, but was sampled or injected by the text of an answer, is read as token 0: the
        model would look for an image that is not there.

        Args:
            input_ids: of the pass.
            scenes: one per row, None for rows without pictures; empty = no row has any.
            starts: where each row's prompt begins; empty = at 0.
        """
        rows, width = input_ids.shape
        held, firsts = list(scenes) or [None] * rows, list(starts) or [0] * rows
        ends = [first + (own.num_tokens if own else 0) for own, first in zip(held, firsts, strict=True)]
        made = {"input_ids": self.readable(input_ids, ends)}
        found = [None if scene is None else self._tensors(scene) for scene in held]
        for name in dict.fromkeys(name for own in found if own for name in own):
            columns = [None if own is None else own[name] for own in found]
            tensor = _by_token(columns, width, firsts) if name.endswith(_BY_PLACE) else _joined(columns)
            made[name] = tensor.to(input_ids.device)
        return made

    def readable(self, input_ids: Int[Tensor, "rows tokens"], ends: Sequence[int]) -> Int[Tensor, "rows tokens"]:
        """The tokens with 0 for those that stand for images but come at or after the end of a row's scene."""
        later = (
            torch.arange(input_ids.shape[1], device=input_ids.device)
            >= torch.tensor(ends, device=input_ids.device)[:, None]
        )
        foreign = torch.isin(input_ids, self._placeholders.to(input_ids.device)) & later
        return input_ids.masked_fill(foreign, 0)

    def trials(self) -> list[tuple[tuple[int, ...], Scene]]:
        """Two short prompts with small pictures of different shapes, to try a model on."""
        found = []
        for number, (width, height) in enumerate(((64, 64), (96, 48))):
            picture = gradient(width, height)
            text = f"{'ab'[number]}{self.marker()}{'c' * (number + 1)}"
            ids = self.encode(text, [picture], special=False)
            found.append((ids, Scene(text, (picture,), len(ids))))
        return found

    def _tensors(self, scene: Scene) -> dict[str, Tensor]:
        ids, tensors = self._made(scene.text, scene.pictures, scene.special)
        if len(ids) != scene.num_tokens:
            raise EngineError(
                f"{scene.pictures[0].name}: the model's processor made {scene.num_tokens} tokens of this prompt "
                f"before, and {len(ids)} now; use a processor that always does the same"
            )
        return tensors

    def _made(self, text: str, pictures: tuple[Picture, ...], special: bool) -> _Made:
        """The tokens and tensors of a prompt; made again if they are not kept."""
        key = (text, pictures, special)
        if key not in self._kept:
            images = [open_picture(picture) for picture in pictures]
            processor = self.processor
            try:
                with torch.inference_mode(False):  # they are used in passes with gradient, too
                    made = dict(
                        processor(text=[text], images=[images], add_special_tokens=special, return_tensors="pt")
                    )
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - of many kinds, about this prompt
                reason = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
                raise UnusableImageError(
                    f"{pictures[0].name}: the model's processor rejects its prompt ({reason}); change it"
                ) from None
            ids = tuple(made.pop("input_ids")[0].tolist())
            made.pop("attention_mask", None)
            self._kept[key] = (ids, made)
            self._kept_bytes += _bytes(made)
        self._kept.move_to_end(key)
        while self._kept_bytes > self._most_bytes and len(self._kept) > 1:
            self._kept_bytes -= _bytes(self._kept.popitem(last=False)[1][1])
        return self._kept[key]


def older_template(place: str) -> str:
    """The chat template that older checkpoints keep with the processor, not the tokenizer; empty if there is none."""
    file = _file_of(place, "chat_template.json")
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8"))["chat_template"]) if file else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _file_of(place: str, name: str) -> str | None:
    """A file of a model in a folder or on the hub; None if it has no such file."""
    found: str | None = cached_file(
        place, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return found


def _without_torchvision(place: str, tokenizer: PreTrainedTokenizerBase, *, trusted: bool) -> Any:
    """A processor whose images are handled by Pillow, and which takes no videos: those need torchvision."""
    family = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(place, trust_remote_code=trusted))]
    # its own check of the parts looks for torchvision's base class of what handles videos
    kind: Any = type(family.__name__, (family,), {"check_argument_for_proper_class": lambda *_: None})
    parts: dict[str, Callable[[], Any]] = {
        "tokenizer": lambda: tokenizer,
        "image_processor": lambda: AutoImageProcessor.from_pretrained(place, backend="pil", trust_remote_code=trusted),
        "video_processor": _NoVideos,
    }
    settings, _ = kind.get_processor_dict(place)
    return kind.from_args_and_dict([parts[name]() for name in kind.get_attributes()], settings)


class _NoVideos(dict[str, Any]):  # which the processor can write as JSON
    """Stands where a processor wants one for videos."""

    model_input_names = ()


def _by_token(columns: Sequence[Tensor | None], width: int, starts: Sequence[int]) -> Tensor:
    """A number for each token of the rows; 0, which means text, beyond the prompt's own."""
    known = next(column for column in columns if column is not None)
    rows = known.new_zeros((len(columns), width))
    for row, (column, start) in enumerate(zip(columns, starts, strict=True)):
        if column is not None:
            rows[row, start : start + column.shape[-1]] = column[0]
    return rows


def _joined(columns: Sequence[Tensor | None]) -> Tensor:
    """What there is of the pictures, one after another; smaller ones are padded with zeros, as processors do."""
    present = [column for column in columns if column is not None]
    sides = [max(sizes) for sizes in zip(*(column.shape[1:] for column in present), strict=True)]
    padded = []
    for column in present:
        missing = [side - size for side, size in zip(sides, column.shape[1:], strict=True)]
        padded.append(F.pad(column, [each for size in reversed(missing) for each in (0, size)]))
    return torch.cat(padded)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
