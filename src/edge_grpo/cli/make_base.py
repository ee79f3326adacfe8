"""``edge-grpo make-base``."""

from typing import Annotated

import typer

__all__ = ["make_base"]


def make_base(
    out: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder for the model.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]")] = None,
) -> None:
    """Make the small base model: supervised warm-up on arithmetic derivations (minutes on 2 cores)."""
    from edge_grpo.bundled.make import BaseSettings  # noqa: PLC0415 - imports transformers
    from edge_grpo.bundled.make import make_base as make  # noqa: PLC0415
    from edge_grpo.config.tree import parse_settings  # noqa: PLC0415

    def report(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step}/{base.steps}  loss {loss:.3f} nats per token", flush=True)

    base = parse_settings(BaseSettings, settings or [])
    print(f"wrote {make(out, base, on_step=report)}")
