"""Bisecting: which toolchain, or which release of a package, made a model worse."""
