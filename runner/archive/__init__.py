"""Archives: one file with everything that a toolchain needs, for machines without a network.

docs/archive.md describes the format, which `format` defines; `reader` and `writer` read and write
it; `saving` and `loading` decide what goes in and where it is unpacked.
"""
