"""This machine: files and paths, subprocesses, and the identity of processes."""
