"""`runner convert`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from runner.cli.options import (
    Arch,
    ArchArgs,
    Cache,
    CalibrateOnNoise,
    Calibration,
    Engine,
    Inputs,
    InputsFile,
    Json,
    Labels,
    Limit,
    Metric,
    MinSqnr,
    Quiet,
    Runtimes,
    Samples,
    Seed,
    Strict,
    Target,
    Timeout,
    Tolerance,
    TrustModel,
    Verbose,
    Wheels,
    end_with,
    make_console,
    make_observer,
    parse_json_object,
    parse_stage_options,
)
from runner.engines.limits import parse_limits
from runner.errors import BadInput, UsageError
from runner.formats.kinds import STARTS
from runner.toolchains.load import aim, load_toolchain, load_toolchains

if TYPE_CHECKING:
    from runner.conversion.settings import RunSettings
    from runner.planning.check import Check
    from runner.planning.source import Source
    from runner.toolchains.model import Toolchain


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
    input: Inputs = None,
    arch: Arch = "",
    arch_args: ArchArgs = "",
    samples: Samples = 1000,
    inputs: InputsFile = None,
    labels: Labels = None,
    seed: Seed = 0,
    tolerance: Tolerance = 1e-6,
    metric: Metric = "mean",
    strict: Strict = False,
    opset: Annotated[Optional[int], typer.Option(help="ONNX operator set.")] = None,
    fixes: Annotated[
        Optional[str],
        typer.Option(
            help="Repairs of the pinned tools: all, none, NAME,... or -NAME,...", show_default="all"
        ),
    ] = None,
    faithful: Annotated[
        bool,
        typer.Option(
            "--faithful", help="The pinned tools alone, held to their bar: --fixes none --strict."
        ),
    ] = False,
    io_layout: Annotated[
        Optional[str],
        typer.Option(
            help="nchw: images as in PyTorch; nhwc: channels last, no transpose.",
            show_default="nchw",
        ),
    ] = None,
    signature: Annotated[
        bool,
        typer.Option("--signature", help="Name the inputs and outputs in a SignatureDef."),
    ] = False,
    embed_preprocessing: Annotated[
        bool,
        typer.Option(
            "--embed-preprocessing",
            help="The model takes pixels, 0 to 255, and prepares them as its .toml says.",
        ),
    ] = False,
    quantize: Annotated[
        Optional[str],
        typer.Option(
            help="Quantised models besides: float16, dynamic, int8, int16x8, or several; auto: "
            "int8 with the fewest layers in float that pass the gate."
        ),
    ] = None,
    calibration: Calibration = None,
    calibrate_on_noise: CalibrateOnNoise = False,
    trained_ranges: Annotated[
        bool,
        typer.Option("--trained-ranges", help="int8 by the ranges of quantisation-aware training."),
    ] = False,
    quantize_io: Annotated[
        str, typer.Option(help="int8's inputs and outputs: float, int8, uint8 (default: float).")
    ] = "",
    keep_float: Annotated[
        Optional[list[str]],
        typer.Option(help="A layer that int8 leaves in float: a module's path (repeatable)."),
    ] = None,
    min_sqnr: MinSqnr = None,
    min_top1: Annotated[
        Optional[float],
        typer.Option(help="Share of samples with PyTorch's class that it needs (default: 0.98)."),
    ] = None,
    runtimes: Runtimes = None,
    engine: Engine = "auto",
    gpu: Annotated[bool, typer.Option("--gpu", help="Run TensorFlow's CUDA variant.")] = False,
    option: Annotated[
        Optional[list[str]],
        typer.Option(help="STAGE.NAME=VALUE, for any stage option (see `runner stages`)."),
    ] = None,
    wheel: Wheels = None,
    toolchain: Annotated[
        Optional[str],
        typer.Option(
            help="Which chain of stages (default: by the model's option); several, "
            "comma-separated, or 'all' run side by side."
        ),
    ] = None,
    target: Target = "",
    jobs: Annotated[
        int, typer.Option(help="Toolchains at a time (default: one for 2 cores and 4 GiB).")
    ] = 0,
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
    cache: Cache = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert a model, check every stage against PyTorch's outputs, and leave a run folder."""
    kind, path = _choose_source(model, from_onnx, from_pb)
    limits = parse_limits(limit or (), timeout)

    from runner.conversion.convert import convert as convert_model
    from runner.conversion.settings import RunSettings
    from runner.planning.check import Check
    from runner.planning.quantization import Quantization, split_modes, split_runtimes
    from runner.planning.source import Source
    from runner.side_by_side.candidates import names_several

    arguments = parse_json_object(arch_args, "--arch-args")
    source = Source(path, arch, arguments, embed_preprocessing)
    check = Check(
        *(input or (), inputs, samples, seed, tolerance, metric, strict or faithful), labels=labels
    )
    settings = RunSettings(
        output=output,
        engine=engine,
        wheels=wheel or (),
        gpu=gpu,
        trust_model=trust_model,
        limits=limits,
        cache=cache,
        sign=sign,
        diagnose=diagnose,
    )
    quantization = Quantization(
        *(split_modes(quantize or ""), calibration, calibrate_on_noise, quantize_io),
        *(min_sqnr, min_top1),
        keep_float=keep_float or (),
        trained=trained_ranges,
        runtimes=split_runtimes(runtimes),
    )
    options = {
        "opset": opset,
        "fixes": fixes,
        "io_layout": io_layout,
        "signature": signature or None,
        **parse_stage_options(option or []),
    }
    if toolchain and names_several(toolchain):
        if quantization != Quantization():
            raise BadInput(
                "Toolchains side by side are compared by their float models.",
                "Name one --toolchain with --quantize.",
            )
        _convert_side_by_side(
            *(source, check, settings, kind, toolchain, target, options, faithful, jobs),
            *(as_json, quiet, verbose),
        )
    chain = _choose_toolchain(kind, aim(toolchain or "", target))
    if faithful and chain.find_takers("fixes"):
        options["fixes"] = "none"
    report = convert_model(
        source,
        check,
        replace(settings, observer=make_observer(as_json, quiet, verbose)),
        toolchain=chain.name,
        options=options,
        quantization=quantization,
    )
    end_with(report, as_json, quiet)


def _convert_side_by_side(
    source: Source,
    check: Check,
    settings: RunSettings,
    kind: str,
    toolchains: str,
    target: str,
    options: dict[str, Any],
    faithful: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> NoReturn:
    """Convert with several toolchains, show the comparison, and exit with its exit code."""
    from runner.cli.side_by_side import SideBySideView, render_comparison
    from runner.side_by_side.candidates import ALL, split_names
    from runner.side_by_side.run import choose_output, convert_side_by_side

    names = split_names(toolchains)
    if target and names == [ALL]:
        raise UsageError(
            "--target goes with named toolchains.", "Such as --toolchain 2020-09,2022."
        )
    names = [aim(name, target) for name in names]
    if faithful and any(chain.find_takers("fixes") for chain in load_toolchains()):
        options["fixes"] = "none"
    console = make_console(quiet=as_json or quiet)
    output = choose_output(source, settings)
    with SideBySideView(console, verbose) as view:
        comparison = convert_side_by_side(
            source,
            check,
            replace(settings, output=output, observer=view.observe()),
            toolchains=names,
            accepts=kind,
            options=options,
            jobs=jobs,
            observe=view.observe,
        )
    if as_json:
        print(comparison.to_json(), end="")
    else:
        console.print(render_comparison(comparison, output, console.width))
    raise typer.Exit(comparison.exit_code)


def _choose_source(
    model: Path | None, from_onnx: Path | None, from_pb: Path | None
) -> tuple[str, Path]:
    """Choose the file to convert and the kind of start that it is. Raises `BadInput`."""
    options = (
        ("--model", "pytorch", model),
        ("--from-onnx", "onnx", from_onnx),
        ("--from-pb", "frozen-graph", from_pb),
    )
    given = [(option, kind, path) for option, kind, path in options if path is not None]
    if len(given) != 1:
        raise UsageError(
            "Give one of --model, --from-onnx and --from-pb.",
            "A PyTorch model, an ONNX model made elsewhere, or a frozen graph made elsewhere.",
        )
    _, kind, path = given[0]
    assert path is not None
    return kind, path


def _choose_toolchain(kind: str, name: str) -> Toolchain:
    """Choose the toolchain of this name that starts from such a file. Raises `BadInput`."""
    chain = load_toolchain(name, kind)
    if chain.accepts != kind:
        others = [c.title for c in load_toolchains() if c.accepts == kind]
        raise BadInput(
            f"The toolchain '{chain.title}' does not start from what {STARTS[kind].option} names.",
            f"Leave out --toolchain, or name one that does: {', '.join(others)}.",
        )
    return chain
