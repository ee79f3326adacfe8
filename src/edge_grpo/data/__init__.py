"""Where problems come from: the built-in arithmetic task, files and hub datasets, and how they become prompts."""
