"""docs/benchmarks.svg: python plot.py RESULTS.json OUT.svg. Text is drawn, so no font is needed."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLOURS = {"runner": "#2563eb", "onnx2tf": "#f59e0b", "litert_torch": "#10b981"}


def bars(axis, results, value, title, form):
    names = list(results["models"])
    height = 0.8 / len(COLOURS)
    for index, (tool, colour) in enumerate(COLOURS.items()):
        for place, name in enumerate(names):
            row = results["models"][name]["tools"][tool]
            if "failure" in row:
                continue
            where, size = place + (index - 1) * height, value(row)
            facts = results["tools"][tool]
            label = f"{facts['title']}, from {facts['starts_from']}" if place == 0 else None
            axis.barh(where, size, height * 0.9, color=colour, label=label)
            axis.text(size, where, " " + form.format(size), va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.margins(x=0.15)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def main():
    results = json.loads(Path(sys.argv[1]).read_text())
    matplotlib.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "path"})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.8 + 0.75 * len(results["models"])), sharey=True, layout="constrained"
    )
    latency = "Latency in LiteRT, 1 thread, ms"
    bars(left, results, lambda row: row["latency"]["LiteRT, 1"]["ms"], latency, "{:.2f}")
    bars(right, results, lambda row: row["cpu_s"], "CPU time of the conversion, s", "{:.1f}")
    left.invert_yaxis()  # shared by both
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
