"""How much a model gets right: answers kept on disk, scores with intervals, paired comparisons, pass rates."""
