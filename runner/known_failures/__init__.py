"""Known failures: a catalogue of what they look like, why they happen and what to do.

The entries are data, `data/*.toml`; docs/failures.md is written from them. `recognise` finds the
entry for what a stage or a set-up left behind.
"""

from runner.known_failures.catalogue import Entry, load_catalogue, load_families
from runner.known_failures.match import Symptoms, explain_stage, known, last_words, recognise

__all__ = [
    "Entry",
    "Symptoms",
    "explain_stage",
    "known",
    "last_words",
    "load_catalogue",
    "load_families",
    "recognise",
]
