"""What stages of every year need of PyTorch, ONNX, TensorFlow and LiteRT, of any release."""
