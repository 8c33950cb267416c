"""Quantised models by ai-edge-quantizer, from any float .tflite file; a stage for each mode."""
