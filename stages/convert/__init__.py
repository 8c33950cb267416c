"""The converting stages, one module per step, and the code that loads their inputs."""
