"""The function that computes each kind."""

from collections.abc import Callable
from typing import Any

from golden.cases import Case, differences
from golden.handlers import (
    decomposed_gp,
    disco,
    edge_grpo,
    gpg,
    grpo,
    mgrpo,
    nthr,
    policy,
    raft,
    rewards,
    rpo,
    share_grpo,
    unlikeliness,
)

Handler = Callable[[Case], dict[str, Any]]

HANDLERS: dict[str, Handler] = {
    **policy.HANDLERS,
    **grpo.HANDLERS,
    **edge_grpo.HANDLERS,
    **disco.HANDLERS,
    **rpo.HANDLERS,
    **raft.HANDLERS,
    **gpg.HANDLERS,
    **unlikeliness.HANDLERS,
    **nthr.HANDLERS,
    **share_grpo.HANDLERS,
    **mgrpo.HANDLERS,
    **rewards.HANDLERS,
    **decomposed_gp.HANDLERS,
}


def check(case: Case) -> list[str]:
    """Everything that is wrong with a case, one line each: unknown names, missing keys, wrong values."""
    if case.kind not in HANDLERS:
        return [f"no handler for the kind '{case.kind}'"]
    got = HANDLERS[case.kind](case)
    return [f"{name}: unknown to the handler" for name in case.unread()] + differences(case, got)
