"""The process engine: locked virtual environments on this machine, sandboxed if possible."""
