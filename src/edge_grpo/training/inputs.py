"""What a run learns from besides its settings, as digests: recorded when it starts, compared when it resumes."""

from collections.abc import Callable, Mapping, Sequence

from edge_grpo.base.digests import digest_each
from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Prompt
from edge_grpo.base.world import World
from edge_grpo.config.tree import Config
from edge_grpo.evaluation.store import code_digest
from edge_grpo.models.loading import fingerprint
from edge_grpo.training.source import Source

__all__ = ["HELD_OUT", "agreed", "changed", "digests"]

HELD_OUT = ("held_out", "held_out_prompts")
"""The digests that depend on which problems the ``eval`` section holds out."""


def digests(config: Config, source: Source, held_out: Sequence[Prompt]) -> dict[str, str]:
    """Twelve hex digits for each input of a run; empty where it has none.

    ``data`` and ``held_out``: the problems or pairs as read; ``prompts`` and ``held_out_prompts``: the token ids made
    of them; ``model``: the files of ``model.path``; ``reward``: the file of ``reward.function`` and the neighbours that
    it imports. Every byte of the model is read once more, about a second per gigabyte.

    Raises:
        EngineError: the model's files cannot be read.
    """
    return {
        "data": digest_each(item for item, _ in source.content()),
        "prompts": digest_each(ids for _, ids in source.content()),
        "held_out": digest_each(each.problem for each in held_out),
        "held_out_prompts": digest_each(each.prompt_ids for each in held_out),
        "model": fingerprint(config.model),
        "reward": code_digest(config.reward.function),
    }


def agreed(find: Callable[[], dict[str, str]], config: Config, world: World) -> dict[str, str]:
    """The digests, after making sure that all machines have the same inputs; every rank must ask.

    Args:
        find: the digests as this machine sees the inputs.
        config: the settings.
        world: the ranks; the first one of each machine looks.
    Raises:
        DataError: a machine has other inputs than that of rank 0.
    """
    everywhere = world.gather(lambda: find() if world.is_first_here else {})

    def compared() -> dict[str, str]:
        for rank, found in enumerate(everywhere):
            if different := changed(found, everywhere[0], config):
                raise DataError(
                    f"rank {rank} (on {world.places[rank][0]}) reads other inputs than rank 0: "
                    f"{' and '.join(different)}; give all machines the same files"
                )
        return everywhere[0]

    return world.first(compared)


def changed(before: Mapping[str, str], now: Mapping[str, str], config: Config) -> tuple[str, ...]:
    """The inputs whose digests differ, by the setting that names them; those not recorded are taken as equal.

    Prompts made of other problems are other prompts, so that they are named only if the problems are the same.
    """
    data = config.data
    trained_on = "data.pairs" if data.pairs else "data.path" if data.path else "the built-in problems"
    held_out = "data.eval_path" if data.eval_path else "data.path" if data.path else "the built-in problems"
    rendered = "the rendered prompts (chat template or tokenizer)"
    names = {
        "data": trained_on,
        "held_out": held_out,
        "model": "model.path",
        "reward": "the code of reward.function",
        "prompts": rendered,
        "held_out_prompts": rendered,
    }
    different = {name for name in names if before.get(name, now[name]) != now[name]}
    implied = {"prompts": "data", "held_out_prompts": "held_out"}
    found = [title for name, title in names.items() if name in different and implied.get(name) not in different]
    return tuple(dict.fromkeys(found))
