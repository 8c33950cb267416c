"""Stages that run their tools as they are, of any release: nothing is repaired here."""
