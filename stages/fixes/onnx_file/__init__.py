"""Fixes of ONNX files made elsewhere: newer operator sets and other precisions than the pins'."""
