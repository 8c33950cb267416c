"""The plan of a run: its source, inputs and checks, all settled before anything starts."""
