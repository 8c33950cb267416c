"""Repairs of frozen graphs that were made elsewhere."""
