"""Quantised models beside the float one: traced by layer, and run in other interpreters."""
