"""Fuzzing of everything that the host parses: `python -m fuzz --help`, and fuzz/README.md."""
