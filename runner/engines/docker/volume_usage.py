"""How much a docker volume holds, which the engine neither limits nor reports.

A separate container measures it, since the volume's folder is on the engine's machine and mostly
not readable for this user. It sees the volume read-only, and runs only the program below.
"""

from __future__ import annotations

import inspect
import json
import threading
from contextlib import suppress
from typing import Any

import docker
import docker.errors
import requests.exceptions

from runner.engines import watchdog
from runner.engines.watchdog import ResourceUsage
from runner.errors import EnvironmentUnavailable
from runner.host.text import split_lines

_PLACE = "/artifacts"
_MOST_FILES = 1 << 20
_SECONDS_TO_START = 30
# The source of `measure_disk`, which runs on the image's Python, however old.
_PROGRAM = f"""
from __future__ import annotations
import errno, json, os, stat, time
class ResourceUsage(dict): pass
{inspect.getsource(watchdog.measure_disk)}
while True:
    print(json.dumps(measure_disk(["{_PLACE}"], {_MOST_FILES})), flush=True)
    time.sleep(0.25)
"""


class VolumeWatcher:
    """Tracks what a volume holds, from a container that a thread starts at the first look."""

    def __init__(
        self, client: docker.DockerClient, image: str, volume: str, labels: dict[str, str]
    ) -> None:
        self._client, self._image = client, image
        self._volume, self._labels = volume, labels
        self._latest: ResourceUsage | None = None
        self._failure = ""
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._container: Any = None

    def close(self) -> None:
        """Remove the container, even one that is still being created."""
        if self._thread is None:
            return
        self._started.wait(_SECONDS_TO_START)
        with suppress(docker.errors.DockerException, requests.exceptions.RequestException):
            if self._container is not None:
                self._container.remove(force=True)
        self._thread.join(timeout=5)

    def look(self) -> ResourceUsage | None:
        """Return what the volume held at the last measurement, or None before the first one.

        Raises `EnvironmentUnavailable` once the container has ended.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, daemon=True)
            self._thread.start()
        elif not self._thread.is_alive():
            why = f": {self._failure}" if self._failure else ""
            raise EnvironmentUnavailable(f"the container that looks at its volume has ended{why}")
        return self._latest

    def _follow(self) -> None:
        try:
            try:
                self._container = self._start()
            finally:
                self._started.set()
            for line in split_lines(self._container.logs(stream=True, follow=True)):
                self._latest = ResourceUsage(**json.loads(line))
        # The engine may go away at any time, and the container is removed with its run.
        except (docker.errors.DockerException, OSError, ValueError) as error:
            self._failure = str(error)

    def _start(self) -> Any:
        return self._client.containers.run(
            self._image,
            entrypoint=["python", "-S", "-c", _PROGRAM],
            detach=True,
            volumes={self._volume: {"bind": _PLACE, "mode": "ro"}},
            labels={**self._labels, "org.runner.stage": "watcher"},
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            # To look into folders that a stage has closed to its own user, too.
            cap_add=["DAC_READ_SEARCH"],
            user="0:0",
            security_opt=["no-new-privileges:true"],
            pids_limit=16,
            mem_limit=256 << 20,
            log_config=docker.types.LogConfig(
                type="local", config={"max-size": "1m", "max-file": "1", "compress": "false"}
            ),
        )
