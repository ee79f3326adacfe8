"""Pure functions of the published methods: tensors in, tensors out, hyperparameters by keyword.

Nothing here knows a setting, a file or a random generator, and nothing writes in place; every function can be used
alone, in one's own trainer. ``methods`` puts them together.

Conventions: ``[i, j]`` of a per-token tensor is about token ``j`` of row ``i``; ``mask`` is True where a token counts,
and whatever stands elsewhere (padding, NaN) reaches neither value nor gradient; ``group`` holds an integer a row, and
rows of one group need not be adjacent.

- ``logits``: log-probabilities and entropy from logits
- ``ops``: sums, means and quantiles over masks and groups
- ``advantages``: rewards -> advantages
- ``relative``: rewards relative to chosen rows of a group
- ``shaping``: entropy-driven advantage
- ``token_weights``: how much one token's update moves others, from hidden states (NTHR, GWHES)
- ``rejection``: signed rewards, and groups that are rejected (RAFT, Reinforce-Rej)
- ``debiasing``: what groups without a signal do to a mean (GPG)
- ``ranks``: rewards by the rank of a rollout's likelihood (unlikeliness reward)
- ``coverage``: pass@k and the uplift of rare answers
- ``filters``: which tokens and rows take part
- ``corrections``: weights for tokens that another program sampled
- ``losses``: ratios and losses per token
- ``dual_clip``: the clipped loss with a bound where the advantage is negative
- ``terms``: KL and likelihood, to be added
- ``means``: from a loss per token to one number
"""
