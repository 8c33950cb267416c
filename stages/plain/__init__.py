"""Stages that run their tools as they are, of any release: what they compute is not repaired."""
