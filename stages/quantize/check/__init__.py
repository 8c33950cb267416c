"""Judging a quantised model: its gate, its latency, and pictures of its worst samples."""
