"""`runner cache` and `runner clean`: list what is kept on this machine, and remove it."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from runner.cli.options import Json, print_rows
from runner.host.files import format_bytes


def cache(as_json: Json = False) -> None:
    """List the finished stages that are kept, the most recently used first."""
    from runner.cache.store import StageCache

    kept = StageCache()
    entries = kept.list_entries()
    rows = [
        {
            "stage": entry.stage,
            "made by": entry.made_by_run,
            "made": datetime.datetime.fromtimestamp(entry.created).isoformat(" ", "minutes"),
            "size": format_bytes(entry.bytes),
            "key": entry.key[:12],
        }
        for entry in entries
    ]
    total = sum(entry.bytes for entry in entries)
    title = f"{kept.folder}: {format_bytes(total)} of at most {format_bytes(kept.most_bytes)}"
    if rows or as_json:
        print_rows(rows, title, as_json)
    else:
        print(title)


def clean(
    environments: Annotated[
        bool,
        typer.Option("--environments", help="Also remove the process engine's environments."),
    ] = False,
    keep_cache: Annotated[
        bool,
        typer.Option("--keep-cache", help="Remove only what runs that were killed left behind."),
    ] = False,
) -> None:
    """Empty the cache of stages; remove what runs that were killed left behind."""
    from runner.cache.store import StageCache
    from runner.cleanup import (
        remove_control_groups,
        remove_drafts,
        remove_environments,
        remove_from_docker,
        remove_scratch_folders,
    )
    from runner.conversion.folder import tidy_killed_runs
    from runner.host.text import make_printable
    from runner.suite.files import FileStore

    cache = StageCache()
    if keep_cache:
        cache.remove_drafts()
    else:
        print(f"cache of stages: {format_bytes(cache.clear())} freed")
        if kept := FileStore().clear():
            print(f"files of suites: {format_bytes(kept)} freed")
    removed = [
        *remove_from_docker(),
        *remove_control_groups(),
        *remove_drafts(),
        *remove_scratch_folders(),
        *tidy_killed_runs(),
    ]
    if environments:
        removed += remove_environments()
    for name in removed:
        print(make_printable(f"removed: {name}"))  # the name of a file may come from anybody
