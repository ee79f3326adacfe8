"""What seeing the parts brings, measured: synthetic draws, an epidemic, the weather."""
