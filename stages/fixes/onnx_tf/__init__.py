"""Repairs of onnx-tf 1.6.0: other handlers, and a graph in channels-last layout."""
