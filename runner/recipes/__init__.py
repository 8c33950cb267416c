"""Toolchains made from the requirements that others published: `runner toolchain`."""
