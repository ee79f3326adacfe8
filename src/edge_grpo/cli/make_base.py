"""``edge-grpo make-base``."""

from collections.abc import Callable
from typing import Annotated

import typer

from edge_grpo.cli.progress import waiting

__all__ = ["make_base"]


def make_base(
    out: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder for the model.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")] = None,
    *,
    images: Annotated[bool, typer.Option("--images", help="The model that reads pictures of digits.")] = False,
) -> None:
    """Make a small base model: supervised warm-up on sums, as text or in pictures (minutes on 2 cores)."""
    with waiting("loading the libraries"):
        from edge_grpo.bundled import make, make_vision  # noqa: PLC0415 - imports transformers
        from edge_grpo.config.tree import parse_settings  # noqa: PLC0415

    def report(total: int) -> Callable[[int, float], None]:
        def tell(step: int, loss: float) -> None:
            if step % 50 == 0:
                print(f"step {step}/{total}  loss {loss:.3f} nats per token", flush=True)

        return tell

    given = settings or []
    if images:
        vision = parse_settings(make_vision.VisionBaseSettings, given)
        print(f"wrote {make_vision.make_vision_base(out, vision, on_step=report(vision.steps))}")
    else:
        text = parse_settings(make.BaseSettings, given)
        print(f"wrote {make.make_base(out, text, on_step=report(text.steps))}")
