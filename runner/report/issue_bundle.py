"""`runner report bundle`: one archive for an issue, without weights, samples and home folders."""

from __future__ import annotations

import getpass
import gzip
import io
import json
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.formats.blank import BLANK, Unreadable
from runner.host.files import open_user_output
from runner.report.runs import find_run_folder, read_report

SUFFIXES = (".zip", ".tar.gz", ".tgz")
# All files of an archive get the earliest date of a zip, so that equal contents are equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
_EPOCH = 315532800
_MOST_OF_A_LOG = 4 << 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_LARGEST_GRAPH = 1 << 31

_README = """\
What a run of the runner left behind, for an issue. Made by `runner report bundle`.

report.json   the report, with this machine's home folder and user name replaced
logs/         the stages' logs, likewise; of a long one the end
graphs/       the artifacts with zeros in place of the weights: same operators, shapes and names, so
              that most failures show on them too (runner convert --from-onnx, --from-pb)

Not in it: the model, its weights, the samples.
"""


@dataclass(frozen=True)
class Bundle:
    """A written archive: its members with their sizes, and what was left out and why."""

    path: Path
    members: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, str], ...]


def write_bundle(run: Path, output: Path | None = None) -> Bundle:
    """Collect a run's report, logs and weightless graphs into an archive.

    The same run gives the same bytes. Raises `BadInput` if `run` is no run's folder, or if the
    output's name does not end in .zip, .tar.gz or .tgz.
    """
    report = json.loads(read_report(find_run_folder(run)).to_json())
    target = output or Path(f"{run.resolve().name}-report.zip")
    if not target.name.endswith(SUFFIXES):
        raise BadInput(
            f"{target} is no name for an archive that can be written.",
            f"Let it end in {', '.join(SUFFIXES)}.",
        )
    hide = _Hidden.for_run(run)
    left_out: list[tuple[str, str]] = []
    members: dict[str, bytes] = {
        "README.txt": _README.encode(),
        "report.json": (json.dumps(hide.replace_inside(report), indent=1) + "\n").encode(),
    }
    logs = run / "logs"
    if logs.is_symlink():  # no run leaves a link, which may lead anywhere
        left_out.append((logs.name, "it is a link"))
    for log in () if logs.is_symlink() else sorted(logs.glob("*.log")):
        if not _PLAIN_NAME.fullmatch(log.name):
            left_out.append((log.name, "no run leaves a log of this name"))
        elif log.is_file() and not log.is_symlink():
            members[f"logs/{log.name}"] = hide.text(_read_end(log)).encode()
    for path in sorted(path for path in run.iterdir() if path.suffix in BLANK):
        if not _PLAIN_NAME.fullmatch(path.name):
            left_out.append((path.name, "no run leaves an artifact of this name"))
            continue
        try:
            members[f"graphs/{path.name}"] = _remove_weights(path)
        except Unreadable as reason:
            left_out.append((path.name, str(reason)))
    with open_user_output(target.absolute()) as temporary:
        temporary.write_bytes(_archive(target.name, members))
    sizes = tuple((name, len(content)) for name, content in members.items())
    return Bundle(target, sizes, tuple(left_out))


def _remove_weights(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise Unreadable("it is no regular file")
    if path.stat().st_size >= _LARGEST_GRAPH:
        raise Unreadable("it is larger than 2 GB")
    data = bytearray(path.read_bytes())
    BLANK[path.suffix](data)
    return bytes(data)


def _read_end(log: Path) -> str:
    with open(log, "rb") as file:
        size = log.stat().st_size
        file.seek(max(0, size - _MOST_OF_A_LOG))
        text = file.read(_MOST_OF_A_LOG).decode(errors="replace")
    return text if size <= _MOST_OF_A_LOG else f"[{size - _MOST_OF_A_LOG} bytes before]\n{text}"


@dataclass(frozen=True)
class _Hidden:
    """The replacements in texts: the longer folders first, then the user's name in a path."""

    replacements: tuple[tuple[re.Pattern[str], str], ...]

    @classmethod
    def for_run(cls, run: Path) -> _Hidden:
        folders = {
            str(run.resolve()): "RUN",
            str(run.absolute()): "RUN",
            str(Path.cwd()): "HERE",
            str(Path.home()): "~",
        }
        found = [
            (re.compile(re.escape(folder) + r"(?![\w-])"), sign)
            for folder, sign in sorted(folders.items(), key=lambda item: -len(item[0]))
            if len(folder) > 1
        ]
        # Other people's folders, and this user's elsewhere (/mnt/USER/...).
        found.append((re.compile(r"(?<=/home/)[^/\s'\"]+|(?<=/Users/)[^/\s'\"]+"), "USER"))
        try:
            name = getpass.getuser()
        except (KeyError, OSError):  # a uid without a name has none to hide
            name = ""
        if name and name != "root":
            found.append((re.compile(rf"(?<=/){re.escape(name)}(?=[/\s'\"]|$)"), "USER"))
        return cls(tuple(found))

    def text(self, text: str) -> str:
        for pattern, sign in self.replacements:
            text = pattern.sub(sign, text)
        return text

    def replace_inside(self, data: Any) -> Any:
        """Replace in all texts of JSON data."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, list):
            return [self.replace_inside(item) for item in data]
        if isinstance(data, dict):
            return {key: self.replace_inside(value) for key, value in data.items()}
        return data


def _archive(name: str, members: dict[str, bytes]) -> bytes:
    return _zip(members) if name.endswith(".zip") else _tar(members)


def _zip(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o644 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=target, mode="wb", mtime=_EPOCH) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), _EPOCH, 0o644
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()
