"""The connection to a Docker engine: on this machine, or wherever DOCKER_HOST says."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from runner.engines.docker.ssh import forward_socket
from runner.errors import EnvironmentUnavailable

_TIMEOUT_SECONDS = 60


class _OwnAuthority(TLSConfig):
    """The engine's own certificate authority, where the environment names one for the rest.

    requests prefers REQUESTS_CA_BUNDLE, as set behind a company's mirror, to what a client was
    told.
    """

    def configure_client(self, client: Any) -> None:
        super().configure_client(client)
        client.trust_env = False


def connect() -> docker.DockerClient:
    """Return a client of the Docker engine.

    Raises `EnvironmentUnavailable` if none answers, or another engine does.
    """
    try:
        client = _open_client()
        components = client.version().get("Components") or ()
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        OSError,
        ValueError,  # from a malformed DOCKER_HOST
    ) as error:
        raise EnvironmentUnavailable(
            f"No Docker engine answers: {shorten_error(error)}",
            "Start Docker (and set DOCKER_HOST if it is elsewhere), or use --engine process.",
        ) from None
    if any("podman" in str(component.get("Name")).lower() for component in components):
        raise EnvironmentUnavailable(
            "What answers is Podman, which has no BuildKit: it cannot build the stages' images.",
            "Use a Docker engine, or --engine process (docs/hosts.md).",
        )
    return client


def _open_client() -> docker.DockerClient:
    parameters = kwargs_from_env()
    if not parameters:
        return docker.from_env(timeout=_TIMEOUT_SECONDS)
    if tls := parameters.get("tls"):
        parameters["tls"] = _OwnAuthority(tls.cert, tls.ca_cert, tls.verify)
    if (url := parameters.get("base_url", "")).startswith("ssh://"):
        parameters = {"base_url": forward_socket(url)}
    return docker.DockerClient(timeout=_TIMEOUT_SECONDS, **parameters)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn the SDK's errors, raised if the engine refuses or is gone, into one for users."""
    try:
        yield
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        tarfile.TarError,  # a copy that was cut off
    ) as error:
        remedy = "Check the engine (docker info) and its disk, then run the command again."
        if "device driver" in str(error):
            remedy = "Docker has no GPU driver here: leave out --gpu, or install NVIDIA's toolkit."
        raise EnvironmentUnavailable(
            f"The Docker engine failed: {shorten_error(error)}", remedy
        ) from error


def shorten_error(error: BaseException) -> str:
    """Format an error as one line; if it is too long, as its two ends: the cause comes last."""
    said = getattr(error, "explanation", None) or str(error) or type(error).__name__
    if isinstance(said, bytes):
        said = said.decode(errors="replace")
    line = str(said).splitlines()[0]
    return line if len(line) <= 300 else f"{line[:140]} ... {line[-140:]}"
