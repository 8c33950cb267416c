"""This machine: files and paths, subprocesses, and which process is which."""
