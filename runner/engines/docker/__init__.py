"""The docker engine: its images, its containers, and what their volume holds."""
