"""The archive format: a plain tar of parts, with an index that accounts for every byte.

    README.txt, source/..., wheels/..., interpreter/..., images/..., runs/...   the parts
    index.json                                                                 what each part is
    index.trailer                                                              the index's own hash
    1,024 zero bytes                                                           the end of a tar

Any tar program can extract it. Parts are stored uncompressed, or as Zstandard (their names end in
.zst). Headers depend only on name and size, and padding is zero, so the index determines the whole
file: not one bit can change unnoticed.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runner.host.text import TOOLCHAIN
from runner.packages.lockfile import parse_release

BLOCK = 512
END = bytes(2 * BLOCK)
FORMAT = "runner-archive"
VERSION = 1
INDEX = "index.json"
TRAILER = "index.trailer"
TRAILER_LINE = "{sha256}  index.json\n{offset:016d} {size:016d}\n"
TRAILER_PATTERN = re.compile(r"([0-9a-f]{64})  index\.json\n(\d{16}) (\d{16})\n", re.ASCII)
TRAILER_SIZE = len(TRAILER_LINE.format(sha256="0" * 64, offset=0, size=0))

# Resource limits for an untrusted archive.
MOST_INDEX = 64 << 20
MOST_PARTS = 100_000
# The most unpacked bytes per stored byte, beyond the first MiB, which always fits.
_MOST_RATIO, _ALWAYS_FITS = 1000, 1 << 20
MOST_PART = 64 << 30
MOST_CONTENT = 256 << 30
# The oldest form of a tar header cannot hold a larger size.
MOST_STORED = 8 << 30

_SAFE_NAME = re.compile(r"[A-Za-z0-9_.+~@!=,()\[\]{}#%^ -]+(/[A-Za-z0-9_.+~@!=,()\[\]{}#%^ -]+)*")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
ToolchainName = Annotated[str, Field(pattern=rf"^{TOOLCHAIN}$", max_length=200)]
Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}(\+sha256:[0-9a-f]{64})?)?$")]
Kind = Literal["about", "source", "wheel", "own-wheel", "interpreter", "image", "run"]
# The first folder of a part's name fixes its kind, so that neither can contradict the other.
FOLDERS: dict[Kind, str] = {
    "about": "",
    "source": "source/",
    "wheel": "wheels/",
    "own-wheel": "own-wheels/",
    "interpreter": "interpreter/",
    "image": "images/",
    "run": "runs/",
}


def _check_run_name(name: str) -> str:
    check_name(name)
    if "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is no folder's name")
    return name


RunName = Annotated[str, AfterValidator(_check_run_name)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Model):
    """One file of an archive; `sha256` and `size` are those of its content before compression."""

    name: str = Field(max_length=255)
    kind: Kind
    offset: int = Field(ge=BLOCK)
    stored_size: int = Field(ge=0, lt=MOST_STORED)
    stored_sha256: Sha256
    size: int = Field(ge=0, lt=MOST_PART)
    sha256: Sha256
    compression: Literal["none", "zstd"]

    @model_validator(mode="after")
    def _check_part(self) -> Part:
        check_name(self.name)
        folder = FOLDERS[self.kind]
        if not self.name.startswith(folder) or (not folder and "/" in self.name):
            raise ValueError(f"{self.name!r} is no name for a part of kind {self.kind}")
        if self.kind in ("wheel", "own-wheel") and parse_release(self.path) is None:
            raise ValueError(f"{self.name!r} is no wheel and no sdist")
        if (self.compression == "zstd") != self.name.endswith(".zst"):
            raise ValueError(f"{self.name!r} does not say how it is compressed")
        if self.compression == "none" and (self.stored_size, self.stored_sha256) != (
            self.size,
            self.sha256,
        ):
            raise ValueError(f"{self.name!r} is stored as it is, and yet otherwise")
        return self

    @property
    def path(self) -> str:
        """Its name within its kind: `blobs/sha256/…` for `images/blobs/sha256/….zst`."""
        suffix = ".zst" if self.compression == "zstd" else ""
        return self.name[len(FOLDERS[self.kind]) :].removesuffix(suffix)


class Environment(_Model):
    """An environment that the archive provides: an image of a toolchain, with its lock."""

    image: Word
    python: Word
    lock_sha256: Sha256
    key: Sha256
    """`Image.environment_key`, which changes whenever an installed file could change."""
    wheels: tuple[Sha256, ...]
    """Digests of what the lock installs; empty if saved without the process engine's packages."""
    own_wheels: tuple[Sha256, ...] = ()
    stand_ins: tuple[str, ...] = ()
    tag: str = Field(default="", pattern=r"^(runner-[a-z0-9._-]+:[A-Za-z0-9._-]+)?$")
    """The name of the docker image; it and the id are empty if the archive lacks the image."""
    id: Digest = ""
    base: Digest = ""

    @model_validator(mode="after")
    def _check_image(self) -> Environment:
        if bool(self.tag) != bool(self.id):
            raise ValueError("an image has a name and an id")
        return self


class Interpreter(_Model):
    """A CPython, as a tar of everything under its prefix."""

    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    sha256: Sha256
    needs: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+$")], ...]
    """System libraries that its extension modules link to, which are not in the archive."""


class Index(_Model):
    """The content of index.json, the last member but one."""

    format: Literal["runner-archive"] = "runner-archive"
    version: Literal[1] = 1
    created: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    runner: str
    platform: str
    toolchains: tuple[ToolchainName, ...]
    environments: tuple[Environment, ...]
    host_python: str
    """The Python version that its wheels for the runner itself fit; empty if there are none."""
    interpreters: tuple[Interpreter, ...]
    runs: tuple[RunName, ...]
    parts: tuple[Part, ...] = Field(max_length=MOST_PARTS)

    @model_validator(mode="after")
    def _check_index(self) -> Index:
        check_layout(self.parts)
        if len({part.name for part in self.parts}) != len(self.parts):
            raise ValueError("two parts have one name")
        if sum(part.size for part in self.parts) > MOST_CONTENT:
            raise ValueError("its parts are larger than an archive's can be")
        names = {part.name for part in self.parts}
        for part in self.parts:
            if part.size > _MOST_RATIO * part.stored_size + _ALWAYS_FITS:
                raise ValueError(f"{part.name!r} unpacks to more than anything saved does")
            if any(str(above) in names for above in PurePosixPath(part.name).parents):
                raise ValueError(f"{part.name!r} lies in another part")
        return self

    def list_parts(self, *kinds: Kind) -> list[Part]:
        return [part for part in self.parts if part.kind in kinds]


def check_name(name: str) -> None:
    """Raise `ValueError` for a name that could escape the folder it is extracted into."""
    if not _SAFE_NAME.fullmatch(name) or any(p in ("..", ".") for p in name.split("/")):
        raise ValueError(f"unsafe name {name!r}")


def build_header(name: str, size: int) -> bytes:
    """Build the only valid header for a part: one block, or three if its name is long."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def compute_padding(size: int) -> int:
    return -size % BLOCK


def check_layout(parts: Sequence[Part]) -> int:
    """Return where the next header begins. Raises `ValueError` if parts overlap or leave a gap."""
    position = 0
    for part in parts:
        if part.offset != position + len(build_header(part.name, part.stored_size)):
            raise ValueError(f"{part.name!r} does not follow the part before it")
        position = part.offset + part.stored_size + compute_padding(part.stored_size)
    return position
