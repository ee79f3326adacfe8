"""What is said to a model that shall look at its answer again."""

__all__ = ["REVISION_PHRASES"]

REVISION_PHRASES = (
    "I may be wrong. Check again.",
    "Is that right? Look once more.",
    "Maybe there is another way.",
    "Did you overlook something?",
    "Go through it again, step by step.",
)
"""What the user may say after an answer, right or wrong, to have it revised in a second turn."""
