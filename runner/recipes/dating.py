"""The date of requirements that came without one: soon after the newest pin was published."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from packaging.version import Version

from runner.errors import BadInput, EnvironmentUnavailable
from runner.recipes.knowledge import Knowledge
from runner.recipes.reading.requirements import Want
from runner.recipes.releases import Releases, add_days


def find_date(known: Sequence[Want], knowledge: Knowledge, releases: Releases) -> str:
    """Return the date of the newest pin and a margin, as image.toml has it. Raises `BadInput`."""
    builds = {w: knowledge.find_build(w.name) for w in known if w.version is not None}
    releases.fetch(name for w, b in builds.items() for name in (b.take if b else (w.name,)))
    moments = []
    for want, build in builds.items():
        assert want.version is not None
        version = Version(want.version.public)
        for name in build.take if build else (want.name,):
            found = releases.find(name, version)
            if found is not None and found.uploaded:
                moments.append(found.uploaded)
        if version.dev and len(str(version.dev)) == 8:
            moments.append(_read_day(str(version.dev)))
    moments = [moment for moment in moments if moment]
    if moments:
        return add_days(max(moments), knowledge.margin)
    problems = "; ".join(releases.problems.values())
    if problems:
        raise EnvironmentUnavailable(
            f"The package index does not list these packages: {problems}.",
            "Check the network and the package index (PIP_INDEX_URL, SSL_CERT_FILE).",
        )
    raise BadInput(
        "Nothing says of when these packages are: none is pinned to a release that is published.",
        "Name the date: --as-of 2021-06-01.",
    )


def _read_day(number: str) -> str:
    try:
        return datetime.datetime.strptime(number, "%Y%m%d").date().isoformat()
    except ValueError:
        return ""
