"""The plan that a recorded run and its reproduction share."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_reports import HASH

from runner.planning.check import Check
from runner.planning.plan import Plan
from runner.planning.source import ModelFile
from runner.toolchains.load import load_image, load_toolchain


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Its folder holds an artifact of each stage, as the record lists only those."""
    chain = load_toolchain()
    for stage in chain.stages:
        (tmp_path / stage.produces).touch()
    return Plan(
        model=ModelFile(tmp_path / "net.pt", "torch-module", HASH, 2_000_000),
        toolchain=chain,
        images={name: load_image(name) for name in chain.images},
        inputs=[],
        inputs_from="",
        arrays=None,
        python_files={},
        check=Check(samples=100, seed=3).as_request(),
        stage_options={stage.name: {} for stage in chain.stages},
        output=tmp_path,
        run="net-20260102-030405-abcd",
    )
