"""The docker engine: its images, its containers, and the usage of their volume."""
