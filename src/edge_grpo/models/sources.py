"""What ``model.path`` names: a model, or an adapter or a run's checkpoint, which change the weights of a base model."""

import json
import warnings
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from edge_grpo.base.digests import damaged_files, digest, digest_files
from edge_grpo.base.errors import CheckpointError, EngineError
from edge_grpo.base.quiet import quiet_failures
from edge_grpo.config.sections import BUNDLED, BUNDLES, LoraSettings, ModelSettings
from edge_grpo.models import slices
from edge_grpo.models.adapters import add_adapters, listed, merged, quiet_peft, untie

__all__ = ["Source", "declared_dtype", "resolve", "restore", "source_of"]

_WEIGHTS = "weights*.safetensors"


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    ``place`` is a folder or hub name. ``over`` holds the settings of the base model that an adapter or checkpoint
    changes; None for a model of its own. ``config`` is an adapter's configuration file. ``fits`` is the fingerprint of
    the base that a checkpoint of adapters was trained on; empty if it is not recorded, or if the checkpoint holds all
    weights.
    """

    place: str
    over: ModelSettings | None = None
    config: Path | None = None
    fits: str = ""

    @property
    def base(self) -> "Source":
        """The model at the bottom."""
        return self if self.over is None else source_of(self.over).base

    def into(self, network: PreTrainedModel) -> PreTrainedModel:
        """The base network with this adapter or checkpoint in its weights, as trainable as before; the argument is used
        up.

        Raises:
            EngineError: an adapter that is damaged, of another model, or cannot be merged.
            CheckpointError: a damaged checkpoint, or one of another model.
        """
        trainable = {name for name, weight in network.named_parameters(remove_duplicate=False) if weight.requires_grad}
        network = self._with_adapter(network) if self.config else self._with_checkpoint(network)
        for name, weight in network.named_parameters():
            weight.requires_grad_(name in trainable)  # peft freezes the base
        return network

    def identity(self, base: str) -> str:
        """Twelve hex digits that change with this adapter's or checkpoint's files, and with the base's digits."""
        if self.config is None:
            assert self.over is not None
            return digest([digest_files(Path(self.place).glob(_WEIGHTS)), repr(self.over.lora), base])
        folder = self.config.parent
        return digest(
            [digest_files(each for each in folder.iterdir() if each.suffix in (".safetensors", ".json")), base]
        )

    def _with_adapter(self, network: PreTrainedModel) -> PreTrainedModel:
        from peft import PeftModel, get_peft_model_state_dict, load_peft_weights  # noqa: PLC0415 - slow to import, only needed for adapters

        try:
            with quiet_failures(), quiet_peft():
                warnings.filterwarnings("error", "Found missing adapter keys")
                model = PeftModel.from_pretrained(network, self.place, use_safetensors=True)
                untie(network)
                if lost := sorted(
                    load_peft_weights(self.place, "cpu").keys() - get_peft_model_state_dict(model).keys()
                ):
                    raise EngineError(f"its weights {listed(lost)} have no place in the base model")
        except Exception as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"model.path: cannot load the adapter '{self.place}' ({reason})") from error
        return merged(model)

    def _with_checkpoint(self, network: PreTrainedModel) -> PreTrainedModel:
        assert self.over is not None
        model: Any = network
        if self.over.lora.rank:
            model = add_adapters(network, self.over.lora, 0, base="")
        restore(Path(self.place), {name: each for name, each in model.named_parameters() if each.requires_grad})
        return merged(model) if self.over.lora.rank else network


def source_of(model: ModelSettings) -> Source:
    """What a model's settings name.

    Raises:
        EngineError: no such folder, or a folder that is none of the three.
    """
    place = resolve(model.path)
    folder = Path(place)
    if not folder.is_dir():
        with quiet_failures():
            found = find_adapter_config_file(place)
        return _adapter(model, place, Path(found)) if found else Source(place)
    if (folder / "adapter_config.json").is_file():
        return _adapter(model, place, folder / "adapter_config.json")
    if (folder / "config.json").exists():
        return Source(place)
    if any(folder.glob(_WEIGHTS)) and (folder / "progress.json").is_file():
        return _checkpoint(model, folder)
    if (folder / "config.yaml").is_file():
        raise EngineError(
            f"model.path: '{model.path}' is a run folder; give {folder / 'final'}, or a folder under "
            f"{folder / 'checkpoints'}"
        )
    return Source(place)


def resolve(path: str) -> str:
    """The folder that ``model.path`` refers to, or the hub name unchanged.

    Raises:
        EngineError: it is a path, but not of a folder.
    """
    if path in BUNDLES:
        return str(files("edge_grpo") / "bundled" / BUNDLES[path])
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists():  # hub names have one slash
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise EngineError(
                f"model.path: no such folder: '{path}'; give a Hugging Face folder, a hub name, or '{BUNDLED}'"
            )
        return str(folder)
    return path


def declared_dtype(model: ModelSettings) -> torch.dtype:
    """The dtype in the configuration of the base model; else that of its first weight; else float32.

    Raises:
        OSError, ValueError: there is no readable configuration.
    """
    place = source_of(model).base.place
    config = AutoConfig.from_pretrained(place, trust_remote_code=model.trust_remote_code)
    for each in (config, config.get_text_config()):
        if isinstance(each.dtype, torch.dtype):
            return each.dtype
    for file in sorted(Path(place).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                dtype: torch.dtype = opened.get_slice(name)[:0].dtype
                if dtype.is_floating_point:
                    return dtype
    return torch.float32


def restore(checkpoint: Path, trained: dict[str, nn.Parameter]) -> None:
    """Copy a checkpoint's weights into the parameters of the same names; every byte is checked first.

    Raises:
        CheckpointError: a file is missing or damaged, or does not belong to this model.
    """
    if bad := damaged_files(checkpoint / "SHA256SUMS"):
        raise CheckpointError(f"{checkpoint}: damaged ({' and '.join(bad)}: does not match SHA256SUMS)")
    try:
        held = {name: shape for name, shape in slices.shapes(checkpoint).items() if ":" not in name}
        slices.fit(checkpoint, trained, held)
        slices.read(checkpoint, trained)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: cannot be read ({error})") from error


def _adapter(model: ModelSettings, place: str, config: Path) -> Source:
    """An adapter over the model that its configuration names."""
    folder = config.parent
    if (folder / "config.json").exists():
        raise EngineError(
            f"model.path: '{model.path}' holds both a model (config.json) and an adapter (adapter_config.json); give a "
            "folder with one of them"
        )
    try:
        own = json.loads(config.read_text(encoding="utf-8"))
        kind, base = str(own["peft_type"]), str(own["base_model_name_or_path"] or "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"model.path: {config} is not the configuration of an adapter ({error!r})") from error
    if kind != "LORA":
        raise EngineError(f"model.path: '{model.path}' is an adapter of type {kind}; only LoRA adapters can be merged")
    if folder.is_dir() and place == str(folder) and not (folder / "adapter_model.safetensors").is_file():
        raise EngineError(
            f"model.path: '{model.path}' has no adapter_model.safetensors; save the adapter as safetensors (pickles "
            "are never loaded)"
        )
    for name, own in BUNDLES.items():
        if Path(base).parts[-3:] == ("edge_grpo", "bundled", own):  # of this package, wherever it was installed
            base = name
    missing = base.startswith((".", "/", "~")) and not Path(base).expanduser().is_dir()
    if not base or missing or (Path(base).is_dir() and Path(base).resolve() == folder.resolve()):
        raise EngineError(
            f"model.path: '{model.path}' is an adapter, and its base model is not at '{base}'; put the base model's "
            f"folder or hub name into base_model_name_or_path in {config}"
        )
    return Source(place, replace(model, path=base, lora=LoraSettings()), config)


def _checkpoint(model: ModelSettings, folder: Path) -> Source:
    """A checkpoint over the model that its run started from."""
    file = folder.resolve().parents[1] / "config.yaml"
    try:
        own = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
        base = TypeAdapter(ModelSettings).validate_python(own)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, ValidationError):
        raise EngineError(
            f"model.path: '{model.path}' is a checkpoint, which holds trained weights only, and {file} does not name "
            "its model; give RUN/checkpoints/step_N inside its run folder"
        ) from None
    fits = _base_of_last_start(file.with_name("starts.jsonl")) if base.lora.rank else ""
    return Source(str(folder), replace(base, trust_remote_code=model.trust_remote_code), fits=fits)


def _base_of_last_start(record: Path) -> str:
    """The fingerprint of ``model.path`` when a run was last started; empty if there is no readable record."""
    try:
        return str(json.loads(record.read_bytes().splitlines()[-1])["inputs"]["model"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return ""
