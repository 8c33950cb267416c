"""A hundred published architectures, written small and as people write them, by field.

The code is this project's own: each is the idea of its paper at small widths, with the operators
and the idioms that make it hard or easy to convert.
"""
