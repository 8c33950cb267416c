"""The tracing stages, which follow an artifact and its source to find a wrong operator."""
