"""The stages that convert, a module a step, and what loads their inputs."""
