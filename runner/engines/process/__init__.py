"""The process engine: locked virtual environments on this machine, isolated where that works."""
