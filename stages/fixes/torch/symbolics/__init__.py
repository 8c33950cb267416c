"""Symbolic functions, which export operators to ONNX, that torch 1.5.1 lacks or gets wrong."""
