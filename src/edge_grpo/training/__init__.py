"""The training loop: groups of completions in, updated weights out; stop and resume anywhere."""
