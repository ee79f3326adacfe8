"""Evidence for decomposed Gaussian processes: synthetic draws, an epidemic, the weather, and the page about them."""
