"""The user's package index and certificates, taken from pip's settings for uv and for builds.

uv reads neither pip.conf nor PIP_* variables, and a machine behind a mirror has just those. This
module needs only the standard library: `bootstrap.py` uses it before anything is installed.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Registry:
    """Where packages come from. Empty fields mean the tools' own defaults."""

    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    ca_bundle: str = ""
    trusted_hosts: tuple[str, ...] = ()
    no_index: bool = False

    def make_uv_environment(self, *, main_only: bool = False) -> dict[str, str]:
        """Return the variables that make uv use this registry.

        When installing, hashes decide what is accepted, so pip's rule (any index may have it) is
        safe. With `main_only` no other index is asked: a lock must not depend on extra indexes and
        folders of the machine that wrote it, unless its image asks for some.
        """
        environment: dict[str, str] = {"UV_NO_CONFIG": "1"}
        if self.index_url:
            environment["UV_DEFAULT_INDEX"] = self.index_url
        if self.ca_bundle:
            environment["SSL_CERT_FILE"] = self.ca_bundle
        if self.trusted_hosts:
            environment["UV_INSECURE_HOST"] = " ".join(self.trusted_hosts)
        if not main_only:
            if self.extra_index_urls:
                environment["UV_INDEX"] = " ".join(self.extra_index_urls)
                environment["UV_INDEX_STRATEGY"] = "unsafe-best-match"
            if self.find_links:
                environment["UV_FIND_LINKS"] = ",".join(self.find_links)
            if self.no_index and not any("://" in link for link in self.find_links):
                # uv has no variable for pip's no-index; with folders alone, offline is the same.
                environment["UV_OFFLINE"] = "1"
        return environment

    def render_pip_conf(self) -> str:
        """Render a pip.conf with this index, for a build secret (remote locations only)."""
        lines = ["[global]"]
        if self.index_url:
            lines.append(f"index-url = {self.index_url}")
        remote = [url for url in self.extra_index_urls if not url.startswith("file:")]
        if remote:
            lines.append("extra-index-url = " + "\n  ".join(remote))
        if self.trusted_hosts:
            lines.append("trusted-host = " + "\n  ".join(self.trusted_hosts))
        return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def read_registry(environ: Mapping[str, str] = os.environ) -> Registry:
    """Read pip's settings: environment variables, then pip.conf files, of which the last wins.

    RUNNER_INDEX_NAME locates an index that an image asks for by name: a URL, or a folder of files.
    """
    settings = _read_pip_conf(environ)
    named = [environ[name] for name in sorted(environ) if name.startswith("RUNNER_INDEX_")]

    def find(variable: str, option: str) -> str:
        return environ.get(variable) or settings.get(option, "")

    bundle = (
        find("PIP_CERT", "cert")
        or environ.get("SSL_CERT_FILE", "")
        or environ.get("REQUESTS_CA_BUNDLE", "")
    )
    return Registry(
        index_url=find("PIP_INDEX_URL", "index-url") or environ.get("UV_DEFAULT_INDEX", ""),
        extra_index_urls=(
            *find("PIP_EXTRA_INDEX_URL", "extra-index-url").split(),
            *(place for place in named if "://" in place),
        ),
        find_links=(
            *find("PIP_FIND_LINKS", "find-links").split(),
            *(place for place in named if place and "://" not in place),
        ),
        ca_bundle=bundle if bundle and Path(bundle).is_file() else "",
        trusted_hosts=tuple(find("PIP_TRUSTED_HOST", "trusted-host").split()),
        no_index=find("PIP_NO_INDEX", "no-index").lower() in ("1", "true", "yes", "on", "y", "t"),
    )


def make_uv_environment(*, main_only: bool = False) -> dict[str, str]:
    """Return this process's environment with the user's registry in uv's own variables."""
    inherited = {
        name: text
        for name, text in os.environ.items()
        # uv must not take the caller's virtual environment or project for ours.
        if name not in {"VIRTUAL_ENV", "UV_PROJECT", "PYTHONPATH", "PYTHONHOME"}
    }
    return {**inherited, **read_registry().make_uv_environment(main_only=main_only)}


def _read_pip_conf(environ: Mapping[str, str]) -> dict[str, str]:
    """Read the [global] and [install] options of pip's configuration files, in pip's own order."""
    home = Path(environ.get("HOME") or "~").expanduser()
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        config_home / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    chosen = environ.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return {}
    if chosen:
        places.append(Path(chosen))
    settings: dict[str, str] = {}
    for place in places:
        parser = configparser.RawConfigParser()
        try:
            parser.read(place, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip itself will complain about it; we only look for an index
        for section in ("global", "install"):
            if parser.has_section(section):
                settings.update(parser.items(section))
    return settings
