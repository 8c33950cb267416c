"""Known failures: a catalogue of what they look like, why they happen and what to do.

The entries are data, `data/*.toml`; docs/failures.md is generated from them. `match.recognise`
finds the entry that fits what a failed stage or set-up left behind.
"""
