"""Rules that torch 1.5.1 lacks or has wrong: how its operators become ONNX ones."""
