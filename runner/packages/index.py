"""A client of package indexes that lists and fetches files, with the user's own pip settings.

uv and pip only install; neither tells which files of a release an index has, or fetches one
without building it. The library unearth finds the best file for an interpreter; what is needed here
is every file, with its size, and an end to a list that is too long. The protocol is the simple
repository API (PEP 503, PEP 691); folders work too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urldefrag, urljoin, urlparse
from urllib.request import url2pathname

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from runner.errors import EnvironmentUnavailable
from runner.host.files import hash_file
from runner.packages.lockfile import Pin, filter_release, parse_release
from runner.packages.pip_settings import Registry, read_registry

DEFAULT_INDEX = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_TIMEOUT = (15, 60)
# A list of one project's files takes a few megabytes at most.
_MOST_LISTED = 128 << 20


@dataclass(frozen=True)
class IndexFile:
    """A file that an index lists. `size` is 0 where the index does not say."""

    name: str
    url: str
    sha256: str
    size: int = 0
    yanked: str = ""
    """Why it was withdrawn; empty if it was not."""
    source: str = ""
    """The index, without a password."""
    uploaded: str = ""
    """When, in the form of ISO 8601; empty where the index does not say."""
    requires_python: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of one pin on all indexes. `problems` says which of these did not answer."""

    files: tuple[IndexFile, ...]
    problems: tuple[str, ...] = ()


class PackageIndexes:
    """The main index, the extra ones and the folders that pip is set up for."""

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry or read_registry()
        main = self._registry.index_url or DEFAULT_INDEX
        self._indexes = [] if self._registry.no_index else [main, *self._registry.extra_index_urls]
        retry = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        self._session = requests.Session()
        self._silent: dict[str, str] = {}
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=16, max_retries=retry))

    def list_files(self, pin: Pin) -> Listing:
        """List the files of a pin's release, whatever their hashes. Raises nothing."""
        listing = self.list_project(pin.name)
        files = [_add_hash(file) for file in filter_release(pin, listing.files)]
        return Listing(tuple(files), listing.problems)

    def list_project(self, name: str) -> Listing:
        """List the files of all releases of a project. Raises nothing.

        A folder's hashes are left out.
        """
        files: list[IndexFile] = []
        problems: list[str] = []
        pages = [(_make_project_url(index, name), index) for index in self._indexes]
        for page, source in [*pages, *((link, link) for link in self._registry.find_links)]:
            if source in self._silent:
                problems.append(self._silent[source])
                continue
            try:
                found = self._list_page(page, hide_password(source))
            except requests.ConnectionError as error:
                # After all retries, so it is not worth asking again for each of many pins.
                self._silent[source] = f"{hide_password(source)}: {_explain_error(error)}"
                problems.append(self._silent[source])
                continue
            except (requests.RequestException, OSError, ValueError) as error:
                problems.append(f"{hide_password(source)}: {_explain_error(error)}")
                continue
            files += [f for f in found if (parse_release(f.name) or ("",))[0] == name]
        return Listing(tuple(files), tuple(problems))

    @contextmanager
    def open(self, file: IndexFile) -> Iterator[Source]:
        """Open a file for reading, unchecked. Raises `EnvironmentUnavailable` if that fails."""
        path = _get_local_path(file.url)
        if path is not None:
            with open(path, "rb") as local:
                yield local
            return
        try:
            response = self._get(file.url, headers={"Accept-Encoding": "identity"})
            response.raise_for_status()
        except (requests.RequestException, OSError) as error:
            raise _make_fetch_error(file, error) from None
        with response:
            yield _Body(file, response)

    def size(self, file: IndexFile) -> int:
        """Return how many bytes a file has; 0 if that is unknown."""
        path = _get_local_path(file.url)
        if path is not None:
            return path.stat().st_size
        if file.size:
            return file.size
        with suppress(requests.RequestException, ValueError):
            host = urlparse(file.url).hostname or ""
            reply = self._session.head(
                file.url,
                headers={"Accept-Encoding": "identity"},
                allow_redirects=True,
                timeout=_TIMEOUT,
                verify=self._get_verify_option(host),
            )
            return int(reply.headers.get("Content-Length", 0))
        return 0

    def _list_page(self, page: str, source: str) -> list[IndexFile]:
        """List the files of a page or a folder; none if there is no such page."""
        folder = _get_local_path(page)
        if folder is not None:
            if folder.is_dir() and not (folder / "index.html").is_file():
                names = [path for path in folder.iterdir() if path.is_file()]
                return [IndexFile(p.name, p.as_uri(), "", source=source) for p in names]
            html = folder / "index.html" if folder.is_dir() else folder
            if not html.is_file():
                return []
            return _parse_html(html.read_text(errors="replace"), html.as_uri(), source)
        with self._get(page, headers={"Accept": _ACCEPT}) as response:
            if response.status_code == 404:
                return []
            response.raise_for_status()
            content = b""
            for chunk in response.iter_content(1 << 20):
                content += chunk
                if len(content) > _MOST_LISTED:
                    raise ValueError("its list of files is too long")
            if "json" in response.headers.get("Content-Type", ""):
                return _parse_json(json.loads(content), response.url, source)
            return _parse_html(content.decode(errors="replace"), response.url, source)

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response:
        verify = self._get_verify_option(urlparse(url).hostname or "")
        return self._session.get(url, headers=headers, timeout=_TIMEOUT, stream=True, verify=verify)

    def _get_verify_option(self, host: str) -> bool | str:
        trusted = {entry.partition(":")[0] for entry in self._registry.trusted_hosts}
        return False if host in trusted else self._registry.ca_bundle or True


class Source(Protocol):
    """A stream that can be read once."""

    def read(self, size: int = ..., /) -> bytes: ...


class _Body:
    """A response's body, which turns a broken connection into a readable error."""

    def __init__(self, file: IndexFile, response: requests.Response) -> None:
        self._file = file
        self._raw = response.raw

    def read(self, size: int = -1, /) -> bytes:
        try:
            data: bytes = self._raw.read(None if size < 0 else size)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _make_fetch_error(self._file, error) from None
        return data


def _make_fetch_error(file: IndexFile, error: Exception) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"{file.name} could not be fetched from {file.source}: {_explain_error(error)}",
        "Check the network, then run the command again: it goes on where it stopped.",
    )


def hide_password(location: str) -> str:
    """Return an index's address without what precedes an @, which may hold a password."""
    return re.sub(r"//[^/]*@", "//", location)


def _make_project_url(index: str, name: str) -> str:
    return f"{index.rstrip('/')}/{name}/"


def _get_local_path(location: str) -> Path | None:
    parsed = urlparse(location)
    if parsed.scheme == "file":
        return Path(url2pathname(parsed.path))
    return None if parsed.scheme in ("http", "https") else Path(location)


def _add_hash(file: IndexFile) -> IndexFile:
    """Add hash and size to a file of a folder, which has no list of hashes."""
    path = _get_local_path(file.url)
    if file.sha256 or path is None or not path.is_file():
        return file
    return IndexFile(file.name, file.url, hash_file(path), path.stat().st_size, source=file.source)


def _parse_json(data: dict[str, Any], page: str, source: str) -> list[IndexFile]:
    files = []
    for entry in data["files"]:
        yanked = entry.get("yanked") or ""
        files.append(
            IndexFile(
                str(entry["filename"]),
                urljoin(page, str(entry["url"])),
                str(entry.get("hashes", {}).get("sha256", "")),
                int(entry.get("size") or 0),
                "no reason given" if yanked is True else str(yanked),
                source,
                str(entry.get("upload-time") or ""),
                str(entry.get("requires-python") or ""),
            )
        )
    return files


def _parse_html(text: str, page: str, source: str) -> list[IndexFile]:
    parser = _Links()
    parser.feed(text)
    files = []
    for href, yanked, requires_python in parser.links:
        url, fragment = urldefrag(urljoin(urljoin(page, parser.base), href))
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        name = unquote(urlparse(url).path.rpartition("/")[2])
        files.append(IndexFile(name, url, sha256, 0, yanked, source, "", requires_python))
    return files


class _Links(HTMLParser):
    """A parser for the links of a PEP 503 page: why each was yanked, and the Pythons it is for."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        href = attributes.get("href")
        if tag == "base" and href:
            self.base = href
        if tag == "a" and href:
            yanked = "data-yanked" in attributes
            reason = attributes.get("data-yanked") or "no reason given"
            requires = attributes.get("data-requires-python") or ""
            self.links.append((href, reason if yanked else "", requires))


def _explain_error(error: Exception) -> str:
    """Return the reason alone, without addresses that may hold a password."""
    if isinstance(error, requests.HTTPError):
        return f"it answers {error.response.status_code}"
    if isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError)):
        return type(error).__name__
    return str(error)
