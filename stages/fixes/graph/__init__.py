"""Repairs of frozen graphs made by other tools."""
