"""One run, top to bottom: its stages, its verdict, its folder; and the same for a comparison."""
