"""Python packages: pins and locks, package indexes, wheels, interpreters."""
