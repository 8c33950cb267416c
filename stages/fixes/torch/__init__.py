"""Repairs of torch 1.5.1's export to ONNX."""
