"""The published methods, one frozen class per file: its settings, and its two or three functions.

``MethodConfig`` is the list: a union discriminated by ``kind``. ``METHODS`` maps every kind to its class. Methods never
import each other; the hooks are in ``base``. Pieces that several share are functions in the private modules.

A setting is documented in its method's docstring; settings that many methods declare in ``_policy_gradient.Modifiers``,
``_discriminative.Discriminative`` and at their types in ``_fields`` and ``_rewarded``.
"""

from typing import Annotated, Final, get_args

from pydantic import Field

from edge_grpo.methods.base import Ask, Method, Needs, Repair, Skip, TopUp
from edge_grpo.methods.bnpo import Bnpo
from edge_grpo.methods.cispo import Cispo
from edge_grpo.methods.dapo import Dapo
from edge_grpo.methods.disco import Disco
from edge_grpo.methods.disco_b import DiscoB
from edge_grpo.methods.dr_grpo import DrGrpo
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.methods.gpg import Gpg
from edge_grpo.methods.grpo import Grpo
from edge_grpo.methods.grpo_matched import GrpoMatched
from edge_grpo.methods.gspo import Gspo
from edge_grpo.methods.luspo import Luspo
from edge_grpo.methods.mgrpo import Mgrpo
from edge_grpo.methods.nthr import Nthr
from edge_grpo.methods.raft import Raft
from edge_grpo.methods.raft_pp import RaftPp
from edge_grpo.methods.reinforce import Reinforce
from edge_grpo.methods.reinforce_rej import ReinforceRej
from edge_grpo.methods.rpo import Rpo
from edge_grpo.methods.sapo import Sapo
from edge_grpo.methods.share_grpo import ShareGrpo
from edge_grpo.methods.unlikeliness import Unlikeliness
from edge_grpo.methods.vespo import Vespo

__all__ = ["METHODS", "Ask", "Method", "MethodConfig", "Needs", "Repair", "Skip", "TopUp"]

MethodConfig = Annotated[
    EdgeGrpo
    | GrpoMatched
    | Grpo
    | DrGrpo
    | Dapo
    | Gspo
    | Cispo
    | Bnpo
    | Sapo
    | Luspo
    | Vespo
    | Mgrpo
    | Unlikeliness
    | Nthr
    | ShareGrpo
    | Disco
    | DiscoB
    | Raft
    | RaftPp
    | Reinforce
    | ReinforceRej
    | Gpg
    | Rpo,
    Field(discriminator="kind"),
]

METHODS: Final[dict[str, type[Method]]] = {cls.kind: cls for cls in get_args(get_args(MethodConfig)[0])}
"""Every kind and its class, in the order of the union."""
