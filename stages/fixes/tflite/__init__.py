"""Repairs around the TensorFlow Lite converter."""
