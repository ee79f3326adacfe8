"""The foundation of every other package: errors, settings, records, tensors, metrics, seeds, digests and signals."""
