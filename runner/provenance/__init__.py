"""The record of a run: written, signed, read again."""
