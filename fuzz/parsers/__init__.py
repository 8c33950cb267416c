"""One harness for each parser of the host; `ALL` has them by name."""

from __future__ import annotations

from fuzz.harness import Harness
from fuzz.parsers import archives, command, graphs, models, records, reports, samples, texts, trust

ALL: dict[str, Harness] = {
    harness.name: harness
    for module in (models, graphs, samples, reports, records, archives, texts, trust, command)
    for harness in module.HARNESSES
}
