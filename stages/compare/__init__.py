"""Run any two artifacts on the same inputs, or ask a framework what a file holds."""
