"""The content-addressed cache of finished stages, so that none runs twice on the same input."""
