"""The CPython of an image, found by running a container once per image."""

from __future__ import annotations

import docker
from pydantic import ValidationError

from runner.errors import EnvironmentUnavailable
from runner.host.files import write_text
from runner.host.paths import cache_folder
from runner.packages.cpython import PROBE, read_probe
from runner.schemas.report import InterpreterRecord


def find_interpreter(client: docker.DockerClient, image_id: str) -> InterpreterRecord:
    """Find the CPython that an image's stages run on. Raises the SDK's errors."""
    memory = cache_folder() / "images" / f"{image_id.removeprefix('sha256:')}.json"
    try:
        return InterpreterRecord.model_validate_json(memory.read_bytes())
    except (OSError, ValidationError):
        pass
    said = client.containers.run(
        image_id,
        entrypoint=["python", "-I", "-c", PROBE],
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        remove=True,
    )
    try:
        record = read_probe(said, "image")
    except (ValueError, KeyError):
        raise EnvironmentUnavailable(
            f"The Python of the image {image_id} cannot be told.", "Build the image again."
        ) from None
    try:
        write_text(memory, record.model_dump_json() + "\n")
    except OSError:
        pass  # the next run asks again
    return record
