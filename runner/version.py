"""The version of the runner: in reports, records and archives."""

__version__ = "0.1.0"
