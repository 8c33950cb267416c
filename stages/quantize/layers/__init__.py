"""Quantised models layer by layer: where noise comes from, and layers that stay in float."""
