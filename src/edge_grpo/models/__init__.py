"""Models from disk or hub: loading, scoring tokens, saving."""
