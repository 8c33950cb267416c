"""The locks of new environments: the Python, the resolver's answer, and why there is none."""
