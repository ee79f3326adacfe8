"""Pure functions of the published methods: tensors in, tensors out, hyperparameters by keyword.

Nothing here knows a setting, a file or a random generator, and nothing writes in place; every function can be used
alone, in one's own trainer. ``methods`` puts them together.

Conventions: ``[i, j]`` of a per-token tensor is about token ``j`` of row ``i``; ``mask`` is True where a token counts,
and whatever stands elsewhere (padding, NaN) reaches neither value nor gradient; ``group`` holds an integer a row, and
rows of one group need not be adjacent.

- ``logits``: log-probabilities and entropy from logits
- ``ops``: sums, means and quantiles over masks and groups
- ``advantages``: rewards -> advantages
- ``shaping``: entropy-driven advantage
- ``filters``: which tokens and rows take part
- ``corrections``: weights for tokens that another program sampled
- ``losses``: ratios and losses per token
- ``terms``: KL and likelihood, to be added
- ``means``: from a loss per token to one number
"""
