"""docs/benchmarks.md from docs/benchmarks.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_OPERATORS = 70  # of mobilenet_v2
MOST_LATENCY = 1.03  # of the best peer's
_SETTINGS = [(runtime, threads) for runtime in ("LiteRT", "TF 2.4") for threads in ("1", "2")]


def page(results: Mapping[str, Any]) -> str:
    parts = [_head(results), _targets(results)]
    parts += [_model(results, name) for name in results["models"]]
    return "\n".join(parts)


def _head(results: Mapping[str, Any]) -> str:
    runtimes = ", ".join(f"{short}: {long}" for short, long in results["runtimes"].items())
    runs = "one run a tool"
    if results["conversions"] > 1:
        runs = f"median of {results['conversions']} runs that take turns (of `--faithful`, one)"
    return f"""# This project beside today's converters

Written by `python benchmarks/peers.py` on {results["date"]}: {results["machine"]}.

![Latency and conversion time](benchmarks.svg)

Seeded networks with calibrated BatchNorm, the same weights for every tool. `runner` is this project
as it is by default, with PyTorch's NCHW input; `--io-layout nhwc` has the input that onnx2tf gives;
`--faithful` is the 2020 tools alone, where they convert the network; `--target litert` makes a file
for LiteRT alone. `--toolchain` has the tools of another time as they were, with no fix of this
project's; their conversions are checked like any other.

- **Latency**: milliseconds of one `invoke`, the median of {results["rounds"]} rounds of
  {results["seconds"]} s in which the files take turns. In brackets, the median over the rounds of
  the ratio to the fastest peer's time in the same round: on a busy machine, compare these.
  {runtimes}; each with 1 and 2 threads.
- **Error**: absolute, against the outputs of torch 1.5.1 on the same {results["samples"]} inputs,
  in LiteRT.
- **Conversion**: {runs}. CPU is what the machine's
  cores worked meanwhile, memory the peak of the largest process. For `runner` it is the whole
  command with `--samples 1`, so ONNX Runtime, TensorFlow and TFLite are loaded and run too; peers
  only convert. onnx2tf starts from the ONNX file of torch 1.5.1: the export is not in its figures.
- **Input**: a file whose input is NCHW, as in PyTorch, has the transpose inside (one TRANSPOSE);
  a file with an NHWC input leaves it to the caller, and its latency is without.

TinyNeuralNetwork is missing: it is published as source on GitHub only (the `tinynn` on PyPI is
another project). litert-torch takes torch's CPU build: its lock names a wheel of PyTorch's own
index, which is found through pip's settings (`PIP_FIND_LINKS` or `PIP_EXTRA_INDEX_URL`).
"""


def _targets(results: Mapping[str, Any]) -> str:
    lines = ["## Targets", ""]
    row = results["models"].get("mobilenet_v2", {}).get("tools", {}).get("runner", {})
    if "operators" in row:
        count, transposes = sum(row["operators"].values()), row["operators"].get("TRANSPOSE", 0)
        lines += [
            f"- mobilenet_v2: {count} operators, at most {MOST_OPERATORS} wanted: "
            f"{_met(count <= MOST_OPERATORS)}.",
            f"- mobilenet_v2: {transposes} TRANSPOSE, only the input's wanted: "
            f"{_met(transposes <= 1)}.",
        ]
    lines += [
        f"- Latency at most {MOST_LATENCY} of the fastest peer's, and less CPU time than the "
        "fastest peer that starts from PyTorch:",
        "",
        "| network | " + " | ".join(_setting(*s) for s in _SETTINGS) + " | CPU s | theirs |  |",
        "|---|" + "---:|" * (len(_SETTINGS) + 2) + "---|",
    ]
    kinds = {"runner": "", "runner_nhwc": ", NHWC", "runner_litert": ", for LiteRT"}
    rows = [
        (f"{name}{kind}", model, model["tools"][tool])
        for name, model in results["models"].items()
        for tool, kind in kinds.items()
        if tool in model["tools"]
    ]
    for name, model, ours in rows:
        if "failure" in ours:
            lines.append(f"| {name} | {ours['failure']} |")
            continue
        ratios = [ours["latency"].get(f"{r}, {t}", {}).get("ratio") for r, t in _SETTINGS]
        theirs = min(
            row["cpu_s"]
            for tool, row in model["tools"].items()
            if not results["tools"][tool]["ours"]
            and results["tools"][tool]["starts_from"] == "PyTorch"
            and "failure" not in row
        )
        # Where no peer's file runs there is no ratio; and a file for LiteRT is for LiteRT alone.
        asked = [
            s for s in _SETTINGS if s[0] == "LiteRT" or not name.endswith(kinds["runner_litert"])
        ]
        fast = all(f"{r}, {t}" in ours["latency"] for r, t in asked)
        fast = fast and all(ratio <= MOST_LATENCY for ratio in ratios if ratio is not None)
        cells = [f"{ratio:.2f}" if ratio else "–" for ratio in ratios]
        cells += [f"{ours['cpu_s']:.1f}", f"{theirs:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {_met(fast and ours['cpu_s'] < theirs)} |")
    return "\n".join(lines) + "\n"


def _model(results: Mapping[str, Any], name: str) -> str:
    model, tools = results["models"][name], results["tools"]
    file = [
        "| tool | operators | TRANSPOSE | CONV_2D | DEPTHWISE | input | MB | mean error "
        "| max error |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    speed = [
        "| tool | " + " | ".join(_setting(*s) for s in _SETTINGS) + " | wall s | CPU s | MiB |",
        "|---|" + "---:|" * (len(_SETTINGS) + 3),
    ]
    failures = []
    for tool, row in model["tools"].items():
        title = tools[tool]["title"]
        if tools[tool]["starts_from"] == "ONNX":
            title += " (from ONNX)"
        for runtime, why in row.get("refused", {}).items():
            failures.append(f"- {title}: {runtime} does not run the file: `{_short(why)}`")
        if "failure" in row:
            failures.append(f"- {title} fails: `{row['failure']}`")
            continue
        counts, errors = row.get("operators", {}), row.get("errors", {}).get("LiteRT")
        cells = ["–"] * 4
        if counts:
            named = [counts.get(o, 0) for o in ("TRANSPOSE", "CONV_2D", "DEPTHWISE_CONV_2D")]
            cells = [str(count) for count in (sum(counts.values()), *named)]
        cells += [row.get("layout", "–"), f"{row['bytes'] / 1e6:.2f}"]
        cells += [f"{errors[k]:.1e}" if errors else "–" for k in ("mean_abs", "max_abs")]
        file.append(f"| {title} | {' | '.join(cells)} |")
        cells = [_latency(row["latency"].get(f"{r}, {t}")) for r, t in _SETTINGS]
        cells += [f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['peak_mib']:.0f}"]
        speed.append(f"| {title} | {' | '.join(cells)} |")
    shape = "×".join(map(str, model["shape"]))
    lines = [f"## {name}, {shape}", "", *file, "", *speed, ""]
    return "\n".join(lines + failures + [""] * bool(failures))


def _short(text: str) -> str:
    return " ".join(text.split())[:160]


def _setting(runtime: str, threads: str) -> str:
    return f"{runtime}, {threads} thread{'s' * (threads != '1')}"


def _latency(found: Mapping[str, float] | None) -> str:
    if not found:
        return "–"
    ratio = f" ({found['ratio']:.2f})" if "ratio" in found else ""
    return f"{found['ms']:.2f}{ratio}"


def _met(holds: bool) -> str:
    return "met" if holds else "**missed**"
