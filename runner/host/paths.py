"""Where the runner keeps things on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where environments are kept: RUNNER_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("RUNNER_CACHE_DIR")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path("runner")


def wheels_folder() -> Path:
    """What archives brought: wheels and sdists, each in a folder named by its sha256."""
    return cache_folder() / "wheels"


def interpreters_folder() -> Path:
    """Interpreters that archives brought."""
    return cache_folder() / "interpreters"
