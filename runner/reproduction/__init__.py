"""The reproduction of a recorded conversion, and how it compares."""
