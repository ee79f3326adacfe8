"""Code that runs inside a vLLM server; nothing in the package imports it."""
