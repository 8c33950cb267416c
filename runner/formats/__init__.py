"""Identification of files by their bytes: a bounded reader for each format; nothing is run."""
