"""What there is to say of toolchains: for `runner toolchain list` and `show`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from packaging.utils import canonicalize_name

from runner.engines.process.environments import is_installed
from runner.errors import BadInput
from runner.host.paths import ROOT
from runner.packages.lockfile import Pin, parse_lock
from runner.recipes.knowledge import load_knowledge
from runner.toolchains.code import list_code
from runner.toolchains.load import load_image, load_toolchain, load_toolchains
from runner.toolchains.model import Image, Reads, Stage, Toolchain

# What builds packages, and is no tool itself.
_BUILD_TOOLS = {"setuptools", "wheel"}


def find_toolchains(name: str) -> list[Toolchain]:
    """Find the toolchains of a name, or of a short name; `NAME+TARGET` is for another target.

    Raises `BadInput` if there is none.
    """
    chains = load_toolchains()
    name, plus, target = name.partition("+")
    found = [chain for chain in chains if name == chain.short]
    found = found or [chain for chain in chains if name == chain.name]
    if not found:
        known = ", ".join(dict.fromkeys(chain.title for chain in chains))
        raise BadInput(f"There is no toolchain '{name}'.", f"Known toolchains: {known}.")
    return [load_toolchain(f"{chain.name}{plus}{target}") for chain in found]


def describe_toolchains(built: Mapping[str, str]) -> list[dict[str, str]]:
    """Describe each toolchain in a row, those of one short name together.

    `built` says of each image what docker has of it.
    """
    together: dict[str, list[Toolchain]] = {}
    for chain in load_toolchains():
        together.setdefault(chain.title, []).append(chain)
    return [_describe_chains(title, chains, built) for title, chains in together.items()]


def _describe_chains(
    title: str, chains: Sequence[Toolchain], built: Mapping[str, str]
) -> dict[str, str]:
    images = [load_image(n) for n in dict.fromkeys(n for chain in chains for n in chain.images)]
    tools = dict.fromkeys(tool for image in images for tool in list_tools(image))
    longest = max(chains, key=lambda chain: len(chain.stages))
    docker = [built.get(image.title, "-") for image in images]
    ready = {
        "docker": all(state not in ("-", "no engine") for state in docker),
        "process": all(map(is_installed, images)),
    }
    return {
        "toolchain": title,
        "date": chains[0].date,
        "starts from": ", ".join(sorted({c.accepts for c in chains}, reverse=True)),
        "stages": ", ".join(stage.name for stage in longest.stages),
        "tools": ", ".join(tools),
        "ready": ", ".join(engine for engine, is_ready in ready.items() if is_ready) or "-",
    }


def list_tools(image: Image) -> list[str]:
    """List the packages of an image's lock that start stages, with their releases."""
    known = load_knowledge().main_tools - {"onnx"}
    return [f"{pin.name} {pin.version}" for pin in _read_pins(image) if pin.name in known]


def list_main_pins(image: Image) -> list[str]:
    """List the releases of the tools, and of what else the image's intent asks for by name."""
    asked = {s.use.partition("==")[0] for s in image.stand_ins}
    for line in image.intent.read_text(encoding="utf-8").splitlines():
        name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
        if name:
            asked.add(canonicalize_name(name[0]))
    wanted = (asked | load_knowledge().main_tools) - _BUILD_TOOLS
    return [f"{pin.name}=={pin.version}" for pin in _read_pins(image) if pin.name in wanted]


def _read_pins(image: Image) -> Sequence[Pin]:
    return parse_lock(image.render_requirements())


def describe_stages(chain: Toolchain) -> list[dict[str, str]]:
    """Describe each stage of a toolchain in a row."""
    return [
        {
            "stage": stage.name,
            "does": stage.title,
            "image": stage.image,
            "options": ", ".join(_list_options(stage)) or "-",
        }
        for stage in chain.stages
    ]


def describe_images(chain: Toolchain) -> list[dict[str, str]]:
    """Describe each environment of a toolchain in a row."""
    images = [load_image(name) for name in chain.images]
    return [
        {
            "image": image.name,
            "python": image.python,
            "as of": image.as_of[:10],
            "pins that matter": ", ".join(list_main_pins(image)),
        }
        for image in images
    ]


def list_remarks(chain: Toolchain) -> list[str]:
    """List what it reads, as far as that is known, and what stands in for pins that are gone."""
    images = [load_image(name) for name in chain.images]
    remarks = [
        f"{image.name} {_describe_reads(kind, reads)}"
        for image in images[:1]
        for kind, reads in image.reads.items()
    ]
    remarks += [f"{i.name}: {s}: {s.reason}" for i in images for s in i.stand_ins]
    remarks += [f"{i.name} needs the index {n} ({w})" for i in images for n, w in i.indexes.items()]
    return remarks


def _describe_reads(kind: str, reads: Reads) -> str:
    if reads.never:
        return f"does not read {kind}"
    limits = [f"up to version {reads.newest}"] if reads.newest else []
    limits += [f"in the form {', '.join(reads.containers)}"] if reads.containers else []
    return f"reads {kind} {' '.join(limits)}".rstrip()


def _list_options(stage: Stage) -> Iterator[str]:
    """Yield a stage's options with their defaults: the toolchain's, or the stage's own."""
    own = _read_defaults(stage.module)
    for name in stage.options:
        default = stage.defaults.get(name, own.get(name))
        yield name if default in (None, "") else f"{name}={_format(default)}"


def _format(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_defaults(module: str) -> dict[str, Any]:
    """Read the defaults of a stage's options from its text: the stages' code is never imported."""
    found: dict[str, Any] = {}
    own = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    for path in (*(p for p in list_code([module]) if p != own and p.suffix == ".py"), own):
        found.update(_find_options(ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    return found


def _find_options(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, Any]]:
    """Yield name and default of each `Option(name, type, default, ...)`."""
    for node in nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "Option"
            and len(node.args) >= 3
        ):
            try:
                yield ast.literal_eval(node.args[0]), ast.literal_eval(node.args[2])
            except ValueError:  # computed
                continue
