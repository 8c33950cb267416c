"""Following the tensors of an artifact and of what it was made from, to find a wrong operator."""
