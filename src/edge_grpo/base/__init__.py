"""What every other package builds on: errors, settings, records, tensors, metrics, seeds, digests and signals."""
