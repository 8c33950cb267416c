"""Running a recorded conversion again, and saying how it compares."""
