"""Archives: one file that holds all that a toolchain needs, for machines without a network.

docs/archive.md describes the format; `format` reads it, `writer` writes it, `saving` and `loading`
decide what goes in and where it comes out.
"""
