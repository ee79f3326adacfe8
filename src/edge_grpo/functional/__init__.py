"""The published methods as pure functions: tensors in, tensors out, hyperparameters by keyword.

No settings, files or random generators, and no in-place writes: each function works on its own, in any trainer.
``methods`` combines them.

Conventions: ``[i, j]`` of a per-token tensor refers to token ``j`` of row ``i``; ``mask`` is True where a token counts,
and anything outside it (padding, NaN) affects neither value nor gradient; ``group`` holds one integer per row, and rows
of one group need not be adjacent.

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
