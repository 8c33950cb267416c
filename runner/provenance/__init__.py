"""The record of a run: how it is written, signed and read again."""
