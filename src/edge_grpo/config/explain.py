"""Wrong settings explained in one line each: where, what it got, what it wanted, and what to do."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from edge_grpo.config.sections import HfEngineSettings, VllmEngineSettings
from edge_grpo.methods import METHODS

__all__ = ["ELSEWHERE", "explain", "explain_all", "setting_names", "shortened"]

ELSEWHERE: Final[dict[str, str]] = {
    # model
    "model_name_or_path": "model.path",
    "bf16": "model.dtype",
    "torch_dtype": "model.dtype",
    "attn_implementation": "model.attention",
    "lora_r": "model.lora.rank",
    "lora_rank": "model.lora.rank",
    "lora_alpha": "model.lora.alpha",
    "lora_target_modules": "model.lora.targets",
    "target_modules": "model.lora.targets",
    # data and reward
    "dataset_name": "data.path",
    "train_files": "data.path",
    "val_files": "data.eval_path",
    "dataset_config": "data.subset",
    "dataset_train_split": "data.split",
    "dataset_test_split": "data.eval_split",
    "prompt_key": "data.fields.prompt",
    "max_prompt_length": "data.max_prompt_tokens",
    "enable_thinking": "data.chat_template_kwargs",
    "apply_chat_template_kwargs": "data.chat_template_kwargs",
    "reward_funcs": "reward.function",
    "custom_reward_function": "reward.function",
    # sampling
    "num_generations": "rollout.group_size",
    "n": "rollout.group_size",
    "batch_size": "rollout.prompts_per_step",
    "train_batch_size": "rollout.prompts_per_step",
    "max_completion_length": "rollout.max_new_tokens",
    "max_response_length": "rollout.max_new_tokens",
    "use_vllm": "rollout.engine",
    "vllm_server_base_url": "rollout.engine.urls",
    "vllm_server_timeout": "rollout.engine.timeout_s",
    # updates
    "lr": "train.learning_rate",
    "lr_scheduler_type": "train.schedule",
    "warmup_ratio": "train.warmup_steps",
    "lr_warmup_steps": "train.warmup_steps",
    "max_steps": "train.steps",
    "epochs": "train.steps",
    "num_epochs": "train.steps",
    "num_train_epochs": "train.steps",
    "total_epochs": "train.steps",
    "total_training_steps": "train.steps",
    "num_iterations": "train.passes",
    "ppo_epochs": "train.passes",
    "steps_per_generation": "train.mini_batches",
    "ppo_mini_batch_size": "train.mini_batches",
    "per_device_train_batch_size": "train.micro_batch_rows",
    "gradient_accumulation_steps": "train.micro_batch_rows",
    "ppo_micro_batch_size_per_gpu": "train.micro_batch_rows",
    "grad_clip": "train.max_grad_norm",
    "adam_beta1": "train.beta1",
    "adam_beta2": "train.beta2",
    "seed": "train.seed",
    "save_steps": "train.checkpoint_every",
    "save_freq": "train.checkpoint_every",
    "save_total_limit": "train.keep_checkpoints",
    # method
    "loss_type": "method",
    "adv_estimator": "method",
    "epsilon": "method.clip_low",
    "clip_ratio": "method.clip_low",
    "clip_ratio_low": "method.clip_low",
    "epsilon_high": "method.clip_high",
    "clip_ratio_high": "method.clip_high",
    "kl_loss_coef": "method.beta",
    "use_bias_correction_kl": "method.kl_bias_correction",
    "scale_rewards": "method.scale",
    "norm_adv_by_std_in_grpo": "method.scale",
    "importance_sampling_level": "method.ratio_level",
    "multi_objective_aggregation": "method.objectives",
    "off_policy_mask_threshold": "method.off_policy_threshold",
    "top_entropy_quantile": "method.entropy_quantile",
    "vllm_importance_sampling_mode": "method.sampler_correction",
    "mask_truncated_completions": "method.mask_unfinished",
    # evaluation and files
    "eval_steps": "eval.every",
    "test_freq": "eval.every",
    "output_dir": "run.dir",
    "default_local_dir": "run.dir",
    "report_to": "run.trackers",
}
"""TRL and verl setting names, and what they are called here; docs/coming_from.md has the table."""

_WANTED: Final[dict[str, str]] = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (in quotes, if it looks like something else)",
    "tuple_type": "a list, such as '[a, b]'",
    "dict_type": "a mapping, such as '{{name: value}}'",
    "literal_error": "{expected}",
    "dataclass_type": "a section with settings",
    "model_attributes_type": "the name of {noun}, or a section with its settings",
}

_ADVICE: Final[dict[str, str]] = {
    "rollout.group_size": "a group-relative advantage needs at least 2 completions per problem",
    "rollout.temperature": "greedy completions in a group would all be the same; eval.temperature can be 0",
    "train.learning_rate": "to skip training, set train.steps=0",
    "reward.memory_mb": "the grader's own packages need most of that",
}


_ENGINES: Final = {"hf": HfEngineSettings, "vllm": VllmEngineSettings}

_FORMER: Final = {
    "run.tensorboard": " any more; write run.trackers=[tensorboard] in place of true, run.trackers=[] in place of false"
}
"""Settings of earlier versions, and what to write instead."""

_EPOCHS: Final = " steps = epochs x problems / rollout.prompts_per_step"

_MAX_LINES: Final = 20
_UNION_TAG: Final = re.compile(r"(literal\[|constrained-).*|float|int|bool|str", re.DOTALL)


def explain_all(errors: Iterable[Mapping[str, Any]], root: type, method: type | None = None) -> str:
    """One line per wrong setting, even if its value matches none of several types.

    Args:
        errors: pydantic's errors, from ``ValidationError.errors()``.
        root: the settings class that was validated.
        method: the class of its method section.
    """
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for number, item in enumerate(errors):
        line = ".".join(map(str, _where(item))) if item["type"] in _WANTED else f"{number}"
        lines.setdefault(line, []).append(item)
    shown = [explain(items[0], root, method, others=items[1:]) for items in [*lines.values()][:_MAX_LINES]]
    return "\n".join([*shown, f"and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else shown)


def shortened(text: str) -> str:
    """User text for a message: in full, or if it is long, its beginning and its length.

    Example:
        >>> shortened("train.steps"), shortened("x" * 1000)[-25:]
        ('train.steps', 'xxx... (1000 characters)')
    """
    return text if len(text) <= 160 else f"{text[:120]}... ({len(text)} characters)"


def explain(
    item: Mapping[str, Any], root: type, method: type | None = None, *, others: Sequence[Mapping[str, Any]] = ()
) -> str:
    """One line for one of pydantic's errors.

    Args:
        item: the error, from ``ValidationError.errors()``.
        root: the settings class that was validated.
        method: the class of its method section.
        others: the errors of the other types allowed for the same value.
    """
    where = _where(item)
    name, given, kind = shortened(".".join(map(str, where)) or "configuration"), item["input"], item["type"]
    noun = "an engine" if name == "rollout.engine" else "a method"
    if kind == "unexpected_keyword_argument":
        while isinstance(given, Mapping) and len(given) == 1:  # typed as one name, a.b.c=1
            ((key, given),) = given.items()
            name = shortened(f"{name}.{key}")
        known = list(setting_names(root, method))
        if name in known:  # of another kind than the chosen one
            kinds = [kind for kind, cls in _ENGINES.items() if name.rpartition(".")[2] in set(setting_names(cls))]
            return f"{name}: no such setting of this kind of engine; set rollout.engine.kind={' or '.join(kinds)} first"
        meant = _meant(name, known)
        formula = _EPOCHS if "epochs" in name.rpartition(".")[2] else ""
        hint = f" (did you mean {meant}?{formula})" if meant else _elsewhere(name, method)
        return f"{name}: no such setting{_FORMER.get(name, hint)}"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        word = shortened(str(given.get("kind") if isinstance(given, Mapping) else given))
        kinds = [*METHODS] if name == "method" else [*_ENGINES]
        close = difflib.get_close_matches(word.lower().replace("-", "_"), kinds, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"{name}: '{word}' is not {noun}; {hint}known {noun.split()[1]}s: {', '.join(kinds)}"
    if kind in _WANTED:
        wanted = " or ".join(_WANTED[one["type"]].format(noun=noun, **one.get("ctx", {})) for one in (item, *others))
        default = _default(root, method, where)
        usual = "" if default is None else f" (the default is {default!r})"
        advice = f"; {_ADVICE[name]}" if name in _ADVICE and "than" in kind else ""
        return f"{name}: got {shortened(repr(given))}, wanted {wanted}{usual}{advice}"
    message = item["msg"].removeprefix("Value error, ")
    if isinstance(given, Mapping) and f"{name}.{message.partition(':')[0]}" in setting_names(root, method):
        return f"{name}.{message}"
    prefix = (
        "" if isinstance(given, Mapping) else f"got {shortened(repr(given))}; "
    )  # a section's own message already states the problem
    own, colon, _ = message.partition(": ")  # a section's message that begins with one of its settings
    between = "." if not prefix and colon and own.isidentifier() else ": "
    return f"{name}{between}{prefix}{message[0].lower() + message[1:]}"


def setting_names(root: type, method: type | None = None, prefix: str = "") -> Iterator[str]:
    """The dotted names of all sections and settings.

    Args:
        root: a settings class.
        method: the class whose settings its ``method`` section has; None = that of the default.
        prefix: put in front of every name.
    """
    hints = typing.get_type_hints(root)
    for name in (field.name for field in dataclasses.fields(root)):
        section = hints[name]
        yield prefix + name
        below = (method or type(root().method)) if prefix + name == "method" else section
        members = typing.get_args(below) if isinstance(below, types.UnionType) else (below,)
        sections = [member for member in members if dataclasses.is_dataclass(member) and isinstance(member, type)]
        every = (own for member in sections for own in setting_names(member, method, f"{prefix}{name}."))
        yield from dict.fromkeys(every)  # kinds of a section share some


def _where(item: Mapping[str, Any]) -> list[Any]:
    """The parts of a setting's name, without pydantic's labels for the types it tried."""
    where = [part for part in item["loc"] if not (isinstance(part, str) and part.startswith(("function-", "tagged-")))]
    if len(where) > 1 and where[0] == "method" and where[1] in METHODS:
        del where[1]
    if where[:2] == ["rollout", "engine"] and len(where) > 2 and where[2] in _ENGINES:
        del where[2]
    if item["type"] in _WANTED and len(where) > 1 and _UNION_TAG.fullmatch(str(where[-1])):
        del where[-1]
    return where


def _meant(name: str, known: Sequence[str]) -> str:
    """What an unknown name may mean: another package's name, a setting in another section, or a typo."""
    section, _, leaf = name.rpartition(".")
    translated = ELSEWHERE.get(leaf)
    if translated in known:
        return f"'{translated}'"
    same = sorted((one for one in known if one.rpartition(".")[2] == leaf), key=lambda one: one.count("."))
    if same:
        return " or ".join(f"'{one}'" for one in same[:3])
    siblings = [one for one in known if one.rpartition(".")[0] == section]
    for candidates, cutoff in ((siblings, 0.6), (known, 0.75)):
        by_leaf = {one.rpartition(".")[2]: one for one in reversed(candidates)}
        close = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=cutoff)
        if close:
            return f"'{by_leaf[close[0]]}'"
    return ""


def _elsewhere(name: str, method: type | None) -> str:
    """Which other methods have a setting that the chosen one lacks; else where all settings are listed."""
    section, _, own = name.partition(".")
    having = [kind for kind, cls in METHODS.items() if section == "method" and own in set(setting_names(cls))]
    if method is None or not having:
        return "; `edge-grpo show-config` lists all settings"
    return f" of method={getattr(method, 'kind', '')}; these have it: {', '.join(having)}"


def _default(root: type, method: type | None, where: Sequence[Any]) -> Any:
    """The default of a single value; None if there is none to show."""
    value: Any = root()
    for part in where:
        value = method() if method and part == "method" else getattr(value, str(part), None)
    return value if isinstance(value, bool | int | float | str) and value != "" else None
