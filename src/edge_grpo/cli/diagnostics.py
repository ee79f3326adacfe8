"""``edge-grpo lld`` and ``edge-grpo uplift``."""

from typing import Annotated

import typer

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.progress import waiting
from edge_grpo.cli.settings import Settings

__all__ = ["lld", "uplift"]


def lld(
    settings: Settings = None,
    problems: Annotated[int, typer.Option(min=1, help="Number of problems to sample.")] = 100,
) -> None:
    """Measure lazy likelihood displacement: one update per problem, from the same weights, by GRPO and by NTHR.

    Use a low train.learning_rate (1e-5): the effect of the first small step is what counts.
    """
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch

    config = load_config(*split_words(settings))

    with waiting("loading the libraries"):
        from edge_grpo.diagnostics.displacement import measure, report  # noqa: PLC0415
        from edge_grpo.trackers.console import PlainDisplay  # noqa: PLC0415

    for line in report(measure(config, num_problems=problems, display=PlainDisplay())):
        print(line)


def uplift(
    settings: Settings = None,
    before: Annotated[str, typer.Option(metavar="DIR", help="The starting model; default: model.path.")] = "",
    after: Annotated[str, typer.Option(metavar="DIR", help="The trained model.")] = "",
    problems: Annotated[int, typer.Option(min=1, help="Number of held-out problems.")] = 50,
) -> None:
    """Compare two models on the first one's answers: which correct answers became likelier, by rank; and pass@N.

    rollout.group_size is the number of answers per problem (32 is usual).
    """
    if not after:
        raise ConfigError("--after: wanted the folder of the trained model")
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch

    config = load_config(*split_words(settings))

    first = before or config.model.path
    with waiting(f"comparing {first} and {after} on {problems} problems"):
        from edge_grpo.diagnostics.uplift import measure, report  # noqa: PLC0415

        found = measure(config, before=first, after=after, num_problems=problems)
    for line in report(found):
        print(line)
