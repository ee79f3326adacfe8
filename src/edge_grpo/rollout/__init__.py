"""Engines: from prompt tokens to completions, and on from corrected completions."""
