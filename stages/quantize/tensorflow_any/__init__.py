"""Quantised models by the converter of any TensorFlow release; a stage for each mode."""
