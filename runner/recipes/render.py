"""The texts of a new toolchain: intents, image.toml, Dockerfiles and the toolchain's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.recipes.compose import Environment
from runner.toolchains.model import Image

_PYTHON = re.compile(r"^ARG BASE=.*$", re.MULTILINE)
_LOCK = re.compile(r"^ARG LOCK=.*$", re.MULTILINE)
_ENTRYPOINT = re.compile(r"^ENTRYPOINT .*$", re.MULTILINE)


@dataclass(frozen=True)
class Intent:
    """What an environment's requirements.in says.

    `kept` are lines of the source that others brought in, `bounds` the limits that play a part, and
    `builders` build those of `sources`.
    """

    source: str
    environment: Environment
    kept: tuple[str, ...] = ()
    bounds: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()


def render_intent(intent: Intent) -> str:
    return "\n".join(_list_intent(intent)) + "\n"


def _list_intent(intent: Intent) -> Iterator[str]:
    yield f"# Written by `runner toolchain new` from {intent.source}."
    for tool in intent.environment.tools:
        if tool.stand_in:
            yield f"# {tool.release} stands in for it: image.toml says why."
        elif tool.pin != tool.want.text:
            yield f"# {_shorten(tool.want.text)}: {tool.note}."
        yield tool.pin
    for text, why in intent.environment.added.items():
        yield f"# Not pinned there; {why}."
        yield text
    if intent.kept:
        yield "# Brought in by others, and pinned there."
        yield from intent.kept
    for text, why in intent.bounds.items():
        yield f"# Brought in by others; {why}."
        yield text
    missing = [name for name in intent.builders if name not in _names(intent)]
    if intent.sources and missing:
        named = [f"'{name}'" for name in intent.sources[:4]]
        shown = [*named, "others"] if len(intent.sources) > len(named) else named
        verb = "are" if len(shown) > 1 else "is"
        yield f"# {join_words(shown)} {verb} published as source only; these build them."
        yield from missing


def _names(intent: Intent) -> set[str]:
    texts = [*intent.kept, *intent.environment.added, *intent.bounds]
    return {re.split(r"[^A-Za-z0-9._-]", text)[0] for text in texts}


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def render_image(
    image: Image,
    reads: Sequence[Mapping[str, Any]],
    reach: Mapping[str, Sequence[str]],
    writer: str = "runner toolchain new",
) -> str:
    """Render image.toml; `writer` is the command that writes it."""
    lines = [
        f"# Written by `{writer}`.",
        f"python = {quote(image.python)}",
        "# What wheels its lock may name: those for this C library and for older ones.",
        f"platform = {quote(image.platform)}",
        "# Releases published on or after this date do not exist for the resolver.",
        f"as-of = {quote(image.as_of)}",
    ]
    if image.runtime:
        lines += ["# What runs .tflite files here.", f"runtime = {quote(image.runtime)}"]
    if image.tries_quantized:
        lines += ["tries-quantized = true"]
    if image.overrides:
        lines += ["# In the place of every other requirement of the same package."]
        lines += [f"overrides = {_render(list(image.overrides))}"]
    if image.as_of_package:
        lines += ["", "# Pinned, and published later.", "[as-of-package]"]
        lines += [f"{quote(name)} = {quote(day)}" for name, day in image.as_of_package.items()]
    if image.indexes:
        lines += ["", "# Named: the user's RUNNER_INDEX_NAME says where each is.", "[indexes]"]
        lines += [f"{quote(name)} = {quote(what)}" for name, what in image.indexes.items()]
    for entry in reads:
        lines += ["", f"[reads.{entry['format']}]"]
        lines += [f"{key} = {_render(v)}" for key, v in entry.items() if key != "format"]
    if reach:
        lines += ["", "# What in a file could reach beyond the process that loads it.", "[reach]"]
        lines += [f"{key} = {_render(list(values))}" for key, values in reach.items()]
    for stand_in in image.stand_ins:
        lines += ["", "# Gone; what the lock names instead, and why.", "[[stand-in]]"]
        lines += [f"{key} = {quote(getattr(stand_in, key))}" for key in ("pin", "use", "reason")]
    return "\n".join(lines) + "\n"


def render_dockerfile(template: str, image: Image, module: str) -> str:
    """Render a Dockerfile from another image's: all have one shape."""
    text = _PYTHON.sub(f"ARG BASE=runner-base:local-{image.python}", template)
    return _ENTRYPOINT.sub(f'ENTRYPOINT ["python", "-m", "{module}"]', replace_lock(text, image))


def replace_lock(dockerfile: str, image: Image) -> str:
    """Return a Dockerfile's text with an image's lock in the place of its own."""
    return _LOCK.sub(f"ARG LOCK={image.lock_path}", dockerfile)


def render_toolchain(
    head: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    quantizers: Sequence[Mapping[str, Any]] = (),
    writer: str = "runner toolchain new",
) -> str:
    """Render a toolchain's file from its keys and its stages'; `writer` is the command."""
    lines = [f"# Written by `{writer}`."]
    lines += [f"{key} = {_render(value)}" for key, value in head.items()]
    tables = [("stage", stage) for stage in stages]
    for name, stage in [*tables, *(("quantizer", quantizer) for quantizer in quantizers)]:
        lines += ["", f"[[{name}]]"]
        lines += [f"{key} = {_render(value)}" for key, value in stage.items()]
    return "\n".join(lines) + "\n"


def join_words(words: Sequence[str]) -> str:
    """Join words as a sentence lists them: 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def quote(text: str) -> str:
    """Write a string for TOML: JSON's form, in which TOML wants one character more escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _render(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_render(v)}" for key, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_render, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else quote(str(value))
