"""Repairs of onnx-tf 1.6.0: its handlers replaced, its graph laid out channels last."""
