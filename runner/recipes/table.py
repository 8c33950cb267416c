"""What a new toolchain took from what was asked for, and what it did not, each with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from runner.recipes.knowledge import Knowledge
from runner.recipes.locking.locker import Locked
from runner.recipes.reading.requirements import Want, Wanted


def describe_environments(
    locked: Sequence[Locked], wants: Sequence[Want]
) -> list[Mapping[str, str]]:
    """Describe what each environment takes, and why, as rows of a table."""
    rows: list[Mapping[str, str]] = []
    asked_for = {want.name: want.text for want in wants if not want.limit}
    for entry in locked:
        base = {"image": entry.image.name}
        for tool in entry.environment.tools:
            asked = tool.want.text if tool.want.where else "-"
            rows.append({**base, "asked for": asked, "taken": str(tool.release), "why": tool.note})
        pins = entry.pins
        for text, why in entry.environment.added.items():
            name = re.split(r"[^A-Za-z0-9._-]", text)[0]
            if name in pins:
                taken = f"{name}=={pins[name]}"
                asked = asked_for.get(name, "-")
                rows.append({**base, "asked for": asked, "taken": taken, "why": why})
        for want in entry.kept:
            taken = f"{want.name}=={pins[want.name]}"
            why = "as pinned; others need it"
            rows.append({**base, "asked for": want.text, "taken": taken, "why": why})
    return rows


def list_ignored(
    wanted: Wanted, wants: Sequence[Want], locked: Sequence[Locked], knowledge: Knowledge
) -> list[tuple[str, str]]:
    """List what was asked for and is in no environment, with the reason."""
    used = {tool.want.text for entry in locked for tool in entry.environment.tools}
    kept = {want.text for entry in locked for want in entry.kept}
    pins = {name for entry in locked for name in entry.pins}
    ignored = []
    for want in wants:
        if want.text in used | kept or want.limit:
            continue
        if knowledge.is_for_gpu(want.name):
            ignored.append((want.text, "for GPUs"))
        elif want.name not in pins:
            ignored.append((want.text, _explain(want, knowledge)))
    dropped = [w for w in wanted.wants if w not in wants]
    ignored += [(want.text, "left out, as --without says") for want in dropped]
    ignored += [(line.text, line.reason) for line in wanted.ignored]
    return ignored


def _explain(want: Want, knowledge: Knowledge) -> str:
    """Explain why a package is in no environment."""
    family = knowledge.get_family(want.name)
    steps = [step for step in knowledge.steps if step.tool == family]
    if not steps:
        return "part of no stage"
    if not any(step.takes_release(want.version) for step in steps):
        return f"no stage takes this release, but {family}{steps[0].releases}"
    return "another way to the same end was taken"
