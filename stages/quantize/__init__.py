"""Quantised TensorFlow Lite models, a stage for each mode."""
