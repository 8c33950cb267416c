"""The Dask cluster that a suite runs on: one on this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.machine import count_cores, read_available_memory, read_machine_memory
from runner.suite.jobs.job import Share

# What one conversion gets at least, in bytes: TensorFlow and torch take half of it by themselves.
_MEMORY = 2 << 30
_SHARE_OF_MEMORY = 0.85
# A conversion that ends its worker so often is reported as that.
KILLS = 3
_CONNECT_SECONDS = 20


@dataclass(frozen=True)
class Connection:
    """Where to run: `scheduler` is tcp://HOST:PORT or tls://HOST:PORT, '' for this machine.

    `workers` is how many conversions run at a time here, 0 for as many as there is room for. The
    files are PEM: the authority, and this client's certificate and key.
    """

    scheduler: str = ""
    workers: int = 0
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def is_local(self) -> bool:
        return not self.scheduler


def compute_width(workers: int = 0) -> int:
    """Return how many conversions fit on this machine: one a core, each with 2 GiB at least."""
    if workers:
        return workers
    memory = read_available_memory() or read_machine_memory()
    return max(1, min(count_cores(), memory // _MEMORY))


def compute_share(width: int) -> Share:
    """Return the share of each of `width` conversions at a time; of one alone, all there is."""
    if width == 1:
        return Share()
    memory = int(read_machine_memory() * _SHARE_OF_MEMORY / width)
    return Share(max(1, count_cores() // width), memory)


@contextmanager
def open_client(connection: Connection) -> Iterator[Any]:
    """Open a client of the cluster, with a cluster of this machine's own if none is named.

    Raises `BadInput` for an address that is none, `EnvironmentUnavailable` if nothing answers.
    """
    dask, distributed = _import_dask()
    # Its messages about lost workers are told by the view, and its own log is the workers'.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if not connection.is_local:
        client = connect(connection)
        try:
            yield client
        finally:
            client.close(timeout=5)
        return
    width = compute_width(connection.workers)
    settings = {
        "distributed.scheduler.allowed-failures": KILLS - 1,
        # A worker has one conversion, and none in waiting that would be blamed for its end.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.comm.timeouts.connect": "60s",
        # It would take samples of the workers' threads, which only wait, a hundred times a second.
        "distributed.worker.profile.enabled": False,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=width,
            threads_per_worker=1,
            processes=True,
            memory_limit=None,  # the conversions have limits of their own
            dashboard_address="127.0.0.1:0",
            local_directory=os.environ.get("TMPDIR"),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def connect(connection: Connection) -> Any:
    """Connect to a scheduler. Raises `BadInput` or `EnvironmentUnavailable`."""
    _, distributed = _import_dask()
    try:
        return distributed.Client(
            connection.scheduler,
            security=_make_security(connection),
            timeout=_CONNECT_SECONDS,
            set_as_default=False,
        )
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"--scheduler {connection.scheduler}: {error}",
            "Such as tcp://HOST:8786, or tls://HOST:8786 with --tls-ca, --tls-cert and --tls-key.",
        ) from None
    except OSError as error:
        raise EnvironmentUnavailable(
            f"No Dask scheduler answers at {connection.scheduler}: {error}",
            "Start one: dask scheduler; and workers: dask worker ADDRESS --nworkers auto.",
        ) from None


def find_dashboard(client: Any) -> str:
    """Return the address of Dask's dashboard; '' where bokeh, which it needs, is not installed."""
    try:
        import bokeh  # noqa: F401
    except ImportError:
        return ""
    return str(client.dashboard_link or "")


def _make_security(connection: Connection) -> Any:
    _, distributed = _import_dask()
    given = (connection.tls_ca, connection.tls_cert, connection.tls_key)
    if not any(given):
        return None  # Dask's own settings may name some
    missing = [str(path) for path in given if path is not None and not path.is_file()]
    if missing:
        raise BadInput(f"There is no file {missing[0]}.")
    names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
    files = {name: str(path) for name, path in zip(names, given, strict=True) if path is not None}
    return distributed.Security(require_encryption=True, **files)


def _import_dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError:
        raise EnvironmentUnavailable(
            "A suite runs on Dask, which is not installed.",
            "Install it: pip install 'tflite-runner[suite]'.",
        ) from None
    return dask, distributed
