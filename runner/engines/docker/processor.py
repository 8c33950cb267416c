"""Whether the engine's machine runs programs for amd64 with AVX, which the stages' wheels are.

Any other processor has to imitate one: Docker Desktop does, and Linux by qemu. Not every imitation
has AVX, without which TensorFlow ends with an illegal instruction.
"""

from __future__ import annotations

import json

import docker
import docker.errors
import requests.exceptions

_AMD64 = ("amd64", "x86_64")
# Asks the processor that the program sees: CPUID leaf 1, whose bit 28 of ECX is AVX. /proc/cpuinfo
# would describe the real one. The bytes are: push rbx; mov eax, 1; xor ecx, ecx; cpuid;
# mov eax, ecx; pop rbx; ret.
_PROGRAM = r"""
import ctypes, json, mmap
code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\x53\xb8\x01\x00\x00\x00\x31\xc9\x0f\xa2\x89\xc8\x5b\xc3")
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print(json.dumps(bool(ctypes.CFUNCTYPE(ctypes.c_uint32)(address)() >> 28 & 1)))
"""
_EMULATE = (
    "Let it imitate amd64: Docker Desktop's setting, or on Linux the package qemu-user-static with "
    "binfmt-support (docs/hosts.md)."
)


def examine_processor(client: docker.DockerClient, image: str) -> tuple[str, str, str]:
    """Run a stage's image; return a level (ok, warning or error), what was seen, and a remedy."""
    architecture = str(client.version().get("Arch", ""))
    emulated = architecture not in _AMD64
    try:
        said = client.containers.run(
            *(image, [_PROGRAM]),
            entrypoint=["python", "-c"],
            network_mode="none",
            remove=True,
        )
        has_avx = json.loads(said)
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        ValueError,
    ) as error:
        why = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1:]
        return "error", f"An image for amd64 does not run on {architecture}: {why}.", _EMULATE
    where = f"amd64, imitated on {architecture}" if emulated else "amd64"
    if has_avx:
        return "ok", f"The images' processor is {where}, with AVX.", ""
    remedy = "Use an engine on a processor that has it: DOCKER_HOST (docs/hosts.md)."
    return "error", f"The images' processor is {where}, without AVX: TensorFlow needs it.", remedy
