"""A run from start to end: its stages, verdict and folder; likewise for a comparison."""
