"""`runner convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.cli.console import Console
from runner.cli.options import (
    Json,
    Limit,
    Timeout,
    TrustModel,
    json_object,
    print_error,
    stage_options,
)
from runner.engines.limits import parse_limits
from runner.engines.select import ENGINES
from runner.errors import BadInput, RunnerError
from runner.toolchains.load import load_toolchain, toolchain_for


def convert(
    model: Annotated[
        Optional[Path], typer.Option(help="TorchScript, a pickled module, or a state_dict.")
    ] = None,
    from_onnx: Annotated[
        Optional[Path], typer.Option(help="An ONNX model made elsewhere, instead of --model.")
    ] = None,
    from_pb: Annotated[
        Optional[Path], typer.Option(help="A frozen graph made elsewhere, instead of --model.")
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option(help="The run folder (default: runs/NAME-TIME).")
    ] = None,
    input: Annotated[
        Optional[list[str]],
        typer.Option(help="[NAME=]SHAPE[:DTYPE], such as 1x3x224x224; once an input."),
    ] = None,
    arch: Annotated[
        str, typer.Option(help="What builds the model: FILE.py:CALLABLE or MODULE:CALLABLE.")
    ] = "",
    arch_args: Annotated[str, typer.Option(help="Its keyword arguments, as JSON.")] = "",
    samples: Annotated[int, typer.Option(help="Generated inputs to check with.")] = 1000,
    inputs: Annotated[
        Optional[Path], typer.Option(help="Your own inputs to check with: .npy or .npz.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the generated inputs.")] = 0,
    tolerance: Annotated[float, typer.Option(help="What the metric must stay below.")] = 1e-6,
    metric: Annotated[
        str, typer.Option(help="mean, max, p99 or rms of the absolute error; mean-rel, ...")
    ] = "mean",
    opset: Annotated[Optional[int], typer.Option(help="ONNX operator set.")] = None,
    fixes: Annotated[
        str, typer.Option(help="Repairs of the pinned tools: all, none, NAME,... or -NAME,...")
    ] = "all",
    faithful: Annotated[
        bool, typer.Option("--faithful", help="The pinned tools alone: --fixes none.")
    ] = False,
    io_layout: Annotated[
        str, typer.Option(help="nchw: images as in PyTorch; nhwc: channels last, no transpose.")
    ] = "nchw",
    engine: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")] = "auto",
    gpu: Annotated[bool, typer.Option("--gpu", help="Run TensorFlow's CUDA variant.")] = False,
    option: Annotated[
        Optional[list[str]],
        typer.Option(help="STAGE.NAME=VALUE, for any stage option (see `runner stages`)."),
    ] = None,
    wheel: Annotated[
        Optional[list[str]],
        typer.Option(help="A wheel for a pin that has vanished: FILE[#sha256=HEX]."),
    ] = None,
    toolchain: Annotated[
        Optional[str], typer.Option(help="Which chain of stages (default: by the model's option).")
    ] = None,
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    sign: Annotated[
        Optional[Path],
        typer.Option(help="Sign the record with this private key (PEM: Ed25519 or ECDSA)."),
    ] = None,
    diagnose: Annotated[
        bool, typer.Option(help="Find the wrong operator where the result is out of tolerance.")
    ] = True,
    cache: Annotated[
        bool,
        typer.Option(
            help="Take stages that were made before from the cache.", envvar="RUNNER_STAGE_CACHE"
        ),
    ] = True,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the stages' output.")] = False,
) -> None:
    """Convert a model, check every stage against PyTorch's outputs, and leave a run folder."""
    # Late: other commands do without what a conversion imports.
    from runner.cli.progress import ConsoleView
    from runner.conversion.convert import convert as convert_model
    from runner.conversion.observer import SilentView

    source, toolchain = _source(model, from_onnx, from_pb, toolchain)
    view = SilentView() if quiet or as_json else ConsoleView(Console(), verbose=verbose)
    report = convert_model(
        source,
        output=output,
        engine=engine,
        inputs=input or (),
        samples=samples,
        seed=seed,
        inputs_file=inputs,
        tolerance=tolerance,
        metric=metric,
        arch=arch,
        arch_args=json_object(arch_args, "--arch-args"),
        options={
            "opset": opset,
            "fixes": "none" if faithful else fixes,
            "io_layout": io_layout,
            **stage_options(option or []),
        },
        wheels=wheel or (),
        gpu=gpu,
        toolchain=toolchain,
        trust_model=trust_model,
        limits=parse_limits(limit or (), timeout),
        sign=sign,
        diagnose=diagnose,
        use_cache=cache,
        view=view,
    )
    if as_json:
        print(report.to_json(), end="")
    elif quiet:
        for record in report.stages:
            if record.status == "failed":
                print_error(RunnerError(f"{record.name}: {record.failure}", record.remedy))
    raise typer.Exit(report.exit_code)


def _source(
    model: Path | None, from_onnx: Path | None, from_pb: Path | None, toolchain: str | None
) -> tuple[Path, str]:
    """The one file to convert, and the toolchain that accepts such a file."""
    options = (
        ("--model", "pytorch", model),
        ("--from-onnx", "onnx", from_onnx),
        ("--from-pb", "frozen-graph", from_pb),
    )
    given = [(option, kind, path) for option, kind, path in options if path is not None]
    if len(given) != 1:
        raise BadInput(
            "Give one of --model, --from-onnx and --from-pb.",
            "A PyTorch model, an ONNX model made elsewhere, or a frozen graph made elsewhere.",
        )
    option, kind, path = given[0]
    chosen = toolchain or toolchain_for(kind)
    if load_toolchain(chosen).accepts != kind:
        raise BadInput(
            f"The toolchain '{chosen}' does not start from what {option} names.",
            "Leave out --toolchain: it follows from the option.",
        )
    assert path is not None
    return path, chosen
