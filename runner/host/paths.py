"""Where the runner finds and keeps things on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

# Where `images` and `stages` are: beside the package in a checkout, inside it once installed.
PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE / "_toolchain" if (PACKAGE / "_toolchain").is_dir() else PACKAGE.parent


def cache_folder() -> Path:
    """Return where environments are kept: RUNNER_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("RUNNER_CACHE_DIR")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path("runner")


def wheels_folder() -> Path:
    """Return where wheels and sdists from archives are, each in a folder named by its sha256."""
    return cache_folder() / "wheels"


def interpreters_folder() -> Path:
    """Return where interpreters from archives are."""
    return cache_folder() / "interpreters"
