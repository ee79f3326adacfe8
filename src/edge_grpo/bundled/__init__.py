"""The small base model inside this package, and the recipe that makes it."""
