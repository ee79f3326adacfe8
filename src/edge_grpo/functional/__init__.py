"""The published methods as pure functions: tensors in, tensors out, hyperparameters by keyword.

No settings, files or random generators, and no in-place writes: each function works on its own, in any trainer.
``methods`` combines them. All are importable from here, ``from edge_grpo.functional import group_normalized``, or from
their modules.

Conventions: ``[i, j]`` of a per-token tensor refers to token ``j`` of row ``i``; ``mask`` is True where a token counts,
and anything outside it (padding, NaN) affects neither value nor gradient; ``group`` holds one integer per row, and rows
of one group need not be adjacent. An argument of the wrong kind (an integer mask, integer rewards), shape or size is
rejected by name with a :class:`~edge_grpo.base.errors.ShapeError`, and so are NaN and infinity in the rewards, scores
and entropies of rows that count. Losses pass on a NaN inside the mask, so that a trainer can skip the update.

- ``logits``: log-probabilities and entropy from logits
- ``ops``: sums, means and quantiles over masks and groups
- ``advantages``: rewards -> advantages
- ``relative``: rewards relative to selected rows of a group
- ``shaping``: entropy-driven advantage
- ``token_weights``: how much one token's update moves others, from hidden states (NTHR, GWHES)
- ``rejection``: signed rewards and rejected groups (RAFT, Reinforce-Rej)
- ``debiasing``: correcting a mean for groups without a signal (GPG)
- ``ranks``: rewards by the rank of a rollout's likelihood (unlikeliness reward)
- ``coverage``: pass@k and the uplift of rare answers
- ``filters``: which tokens and rows enter the loss
- ``corrections``: importance weights for tokens sampled by another program
- ``losses``: per-token ratios and losses
- ``dual_clip``: the clipped loss, bounded where the advantage is negative
- ``discriminative``: right answers scored above wrong ones, with limited drift (DisCO)
- ``preference``: losses on chosen and rejected answers (DPO, IPO and others)
- ``terms``: KL and likelihood terms to add to a loss
- ``means``: from per-token losses to one number
"""

from edge_grpo.functional.advantages import *
from edge_grpo.functional.corrections import *
from edge_grpo.functional.coverage import *
from edge_grpo.functional.debiasing import *
from edge_grpo.functional.discriminative import *
from edge_grpo.functional.dual_clip import *
from edge_grpo.functional.filters import *
from edge_grpo.functional.logits import *
from edge_grpo.functional.losses import *
from edge_grpo.functional.means import *
from edge_grpo.functional.ops import *
from edge_grpo.functional.preference import *
from edge_grpo.functional.ranks import *
from edge_grpo.functional.rejection import *
from edge_grpo.functional.relative import *
from edge_grpo.functional.shaping import *
from edge_grpo.functional.terms import *
from edge_grpo.functional.token_weights import *
