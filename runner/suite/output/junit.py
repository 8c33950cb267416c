"""A comparison as JUnit XML, which CI systems show: a test case for each conversion."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from runner.host.files import open_user_output
from runner.host.text import make_printable
from runner.suite.compare import SuiteComparison, group_changes


def write_junit(comparison: SuiteComparison, path: Path) -> None:
    """Write the file; a conversion of which anything got worse, or that is gone, is a failure."""
    worse = group_changes(comparison.worse)
    better = group_changes(comparison.better)
    total = len(comparison.pairs) + len(comparison.only_base)
    failures = len(worse) + len(comparison.only_base)
    suite = ElementTree.Element(
        "testsuite",
        name=make_printable(f"{comparison.new} against {comparison.base}"),
        tests=str(total),
        failures=str(failures),
        errors="0",
    )
    for _, record in comparison.pairs:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=make_printable(record.model),
            name=make_printable(f"{record.toolchain} {record.variant}"),
            time=f"{record.seconds:.3f}",
        )
        name = str(record.cell)
        if name in worse:
            lines = [make_printable(str(change)) for change in worse[name]]
            said = ElementTree.SubElement(case, "failure", message=lines[0], type="worse")
            said.text = "\n".join(lines)
        if name in better:
            out = ElementTree.SubElement(case, "system-out")
            out.text = "\n".join(f"better: {make_printable(str(c))}" for c in better[name])
    for cell in comparison.only_base:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=make_printable(cell.model),
            name=make_printable(f"{cell.toolchain} {cell.variant}"),
        )
        ElementTree.SubElement(case, "failure", message="It has no result any more.", type="gone")
    ElementTree.indent(suite)
    with open_user_output(path) as target:
        ElementTree.ElementTree(suite).write(target, encoding="utf-8", xml_declaration=True)
