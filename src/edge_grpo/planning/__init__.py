"""What a run will need, before any weight is loaded: counts, memory, time, and what to expect of its groups."""
