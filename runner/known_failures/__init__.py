"""Known failures: a catalogue of what they look like, why they happen and what to do.

The entries are data, `data/*.toml`; docs/failures.md is written from them. `match.recognise` finds
the entry for what a stage or a set-up left behind.
"""
