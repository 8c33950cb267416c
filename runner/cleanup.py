"""Cleanup after runs that were killed: containers, volumes, processes and unfinished files.

A run that ends in any other way cleans up after itself. What SIGKILL or a power cut leaves behind
is found by its label or its name, and by an owner that is no longer alive.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from runner.engines.process.cgroup import find_abandoned_groups
from runner.engines.process.environments import is_environment_folder
from runner.errors import EnvironmentUnavailable
from runner.host.files import remove_tree
from runner.host.locks import make_lock
from runner.host.paths import cache_folder
from runner.host.process_identity import find_abandoned_scratch, is_alive


def remove_from_docker() -> list[str]:
    """Remove the containers and volumes of runs whose runner is gone, and return their names.

    Without an engine that answers, nothing is removed.
    """
    import docker.errors
    import requests.exceptions

    from runner.engines.docker.client import connect
    from runner.engines.docker.engine import LABEL, OWNER

    try:
        client = connect()
    except EnvironmentUnavailable:
        return []
    removed = []
    gone = (docker.errors.DockerException, requests.exceptions.RequestException)
    with suppress(*gone):
        only: dict[str, str | list[str] | bool] = {"label": LABEL}
        for container in client.containers.list(all=True, filters=only, ignore_removed=True):
            if not is_alive(container.labels.get(OWNER, "")):
                with suppress(*gone):
                    container.remove(force=True)
                    removed.append(f"container {container.name}")
        for volume in client.volumes.list(filters=only):
            if not is_alive((volume.attrs.get("Labels") or {}).get(OWNER, "")):
                with suppress(*gone):
                    volume.remove(force=True)
                    removed.append(f"volume {volume.name}")
    return removed


def remove_drafts(folder: Path | None = None) -> list[str]:
    """Remove environments that were never finished, except those being made right now."""
    folder = folder or cache_folder() / "environments"
    removed = []
    for draft in sorted(folder.glob(".*.part*")):  # also its lock, and links to its wheels
        final = folder / draft.name[1:].partition(".part")[0]
        if not is_environment_folder(final):
            continue
        with suppress(TimeoutError), make_lock(Path(f"{final}.lock"), timeout=0):
            remove_tree(draft)
            removed.append(draft.name)
    return removed


def remove_scratch_folders() -> list[str]:
    """Remove temporary folders whose process is gone."""
    removed = []
    for path in find_abandoned_scratch():
        remove_tree(path)
        removed.append(str(path))
    return removed


def remove_control_groups() -> list[str]:
    """End the processes of stages whose runner is gone, and remove their control groups."""
    groups = find_abandoned_groups()
    for group in groups:
        group.remove()
    return [str(folder) for group in groups for folder in group.folders if not folder.exists()]


def remove_environments(folder: Path | None = None) -> list[str]:
    """Remove the process engine's environments, except those being made right now."""
    folder = folder or cache_folder() / "environments"
    removed = []
    # Environments only: the user may keep other things in this folder.
    for path in filter(is_environment_folder, sorted(folder.glob("*"))):
        if not path.is_dir():
            continue
        with suppress(TimeoutError), make_lock(Path(f"{path}.lock"), timeout=0):
            # Renamed first: half an environment under its own name would pass for a whole one.
            draft = path.with_name(f".{path.name}.part")
            shutil.rmtree(draft, ignore_errors=True)
            path.rename(draft)
            shutil.rmtree(draft, ignore_errors=True)
            removed.append(path.name)
    return removed
