"""Running any two artifacts on the same inputs, and asking a framework what a file is."""
