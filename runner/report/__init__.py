"""What a person reads after a run: its page, a table over many runs, an archive for an issue."""
