"""Checks whether a file could run code, or reach files, when a framework loads and runs it."""
