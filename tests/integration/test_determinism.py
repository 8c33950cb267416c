"""One model, one set of options: the same bytes, whatever the machine around the stages is like.

The engines close a stage's environment off, so here stages also run by hand, in environments that
differ in all that a machine may differ in: folder, user, locale, time zone, date, hash seed, number
of threads and of cores, umask, and the instructions that the processor is said to have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from harness import ARTIFACTS, ENGINES, PASSED, ROOT, STAGES, SUPPORT, Convert, sha256

# Of each family one; conv3d and window_attention need Flex without the fixes, lstm and gru are
# given random names by onnx-tf, spectral_norm has constants to multiply, embedding has integers.
NETS = (
    *("conv_bn_relu", "spectral_norm", "norm_layer", "lstm", "gru", "conv3d", "window_attention"),
    *("scripted_control", "embedding", "two_inputs", "interior_outputs", "unet_bilinear"),
)

_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@dataclass(frozen=True)
class Machine:
    """What a machine is like, as far as a stage can see it."""

    environment: Mapping[str, str] = field(default_factory=dict)
    cores: int = 0
    umask: int = 0o022


PLAIN = Machine({"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "TZ": "UTC"})
OTHER = Machine(
    {
        "PYTHONHASHSEED": "4242",
        "LANG": "POSIX",
        "LC_ALL": "POSIX",
        "TZ": "Asia/Kolkata",
        "USER": "somebody",
        "HOME": "/nonexistent",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "2",
        "TF_NUM_INTRAOP_THREADS": "3",
        "TF_NUM_INTEROP_THREADS": "2",
    },
    umask=0o077,
)
# What is left of a processor without AVX2 and AVX-512, as far as each library can be told so.
OLD_PROCESSOR = Machine(
    {
        **PLAIN.environment,
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "DNNL_MAX_CPU_ISA": "SSE41",
        "MKLDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX2 FMA3",
    },
    # Not together with another date: threads that wait by libfaketime's clock spin, and on one core
    # nothing else gets on.
    cores=1,
)


def in_five_years() -> Mapping[str, str]:
    if not _FAKETIME:
        if os.environ.get("CI"):
            pytest.fail("CI has to have libfaketime (Debian's package faketime).")
        return {}
    return {
        "LD_PRELOAD": str(_FAKETIME[0]),
        "FAKETIME": "+1825d",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def convert_on(
    machine: Machine,
    folder: Path,
    fixes: str,
    pythons: Mapping[str, Path],
    extra: Mapping[str, str] | None = None,
) -> None:
    """Run the three stages on all nets of a folder, each stage in a process of its own."""

    def become() -> None:
        os.umask(machine.umask)
        if machine.cores:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: machine.cores])

    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        done = subprocess.run(
            [pythons[stage], "-s", SUPPORT / "batch.py", stage, folder, fixes, *NETS],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "TF_CPP_MIN_LOG_LEVEL": "2",
                **machine.environment,
                **(extra or {}),
            },
            preexec_fn=become,
            text=True,
            capture_output=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]


def bytes_of(folder: Path) -> dict[str, str]:
    """sha256 of each artifact there is; where a stage failed there is none."""
    paths = [folder / net / name for net in NETS for name in ARTIFACTS]
    return {str(path.relative_to(folder)): sha256(path) for path in paths if path.exists()}


@pytest.fixture(scope="module")
def plain(pythons: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nets, made once, and converted with and without the fixes on a plain machine."""
    folder = tmp_path_factory.mktemp("plain")
    convert_on(PLAIN, folder / "all", "all", pythons)
    give_models(folder / "all", folder / "none")
    convert_on(PLAIN, folder / "none", "none", pythons)
    return folder


def give_models(source: Path, target: Path) -> None:
    """The same model files: made on another processor, calibrated weights would differ."""
    for net in NETS:
        (target / net / "requests").mkdir(parents=True)
        for name in ("model.pt", "requests/torch.json"):
            shutil.copyfile(source / net / name, target / net / name)


def test_on_another_machine_on_another_day(
    plain: Path, pythons: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "with a longer name"
    give_models(plain / "all", folder)
    convert_on(OTHER, folder, "all", pythons, in_five_years())
    expected = bytes_of(plain / "all")
    assert len(expected) == 3 * len(NETS)
    assert bytes_of(folder) == expected
    if _FAKETIME:  # the clock really was another
        reports = [(where / "lstm/reports/torch.json") for where in (folder, plain / "all")]
        assert year_of(reports[0].read_text()) >= year_of(reports[1].read_text()) + 4


def year_of(report: str) -> int:
    return int(report.partition('"started": "')[2][:4])


def test_on_an_old_processor(plain: Path, pythons: dict[str, Path], tmp_path: Path) -> None:
    give_models(plain / "all", tmp_path)
    convert_on(OLD_PROCESSOR, tmp_path, "all", pythons)
    assert bytes_of(tmp_path) == bytes_of(plain / "all")
    # PyTorch's own outputs do differ, so the libraries did take other code.
    outputs = "conv_bn_relu/samples/output-0.npy"
    assert sha256(tmp_path / outputs) != sha256(plain / "all" / outputs)


def test_the_pinned_tools_alone(plain: Path, pythons: dict[str, Path], tmp_path: Path) -> None:
    """Without the fixes, all differences at once; some nets fail, at the same stage each time."""
    give_models(plain / "all", tmp_path)
    machine = replace(OTHER, environment={**OLD_PROCESSOR.environment, **OTHER.environment})
    convert_on(machine, tmp_path, "none", pythons, in_five_years())
    expected = bytes_of(plain / "none")
    assert len(expected) > 2 * len(NETS) and "conv3d/model.tflite" in expected
    assert bytes_of(tmp_path) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_the_commands_own_surroundings_do_not_matter(
    convert: Convert, tmp_path: Path, engine: str
) -> None:
    """The same by the command line, on either engine: against a run of the process engine."""
    surroundings = {**OTHER.environment, **OLD_PROCESSOR.environment, **OTHER.environment}
    surroundings["HOME"] = os.environ.get("HOME", "/root")
    other = convert("cnn", engine=engine, again=1, cwd=tmp_path, environment=surroundings)
    assert other.code == PASSED, other.stdout + other.stderr
    assert other.hashes == convert("cnn").hashes
