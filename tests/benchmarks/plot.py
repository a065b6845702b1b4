"""A small plot of throughput by streams, OARS and the floor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def plot_throughput(report: Mapping[str, Any], file: Path) -> None:
    """Draw what `tests.benchmarks.submit` reports into a PNG file."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    series = {
        "the floor: sign, INSERT, answer": report["floor"],
        "the floor on one processor": report.get("floor_on_one_processor", {}),
        "OARS: allowed submit, 2 receipts": report["workloads"]["allow"],
    }
    streams = list(report["floor"])
    places = range(len(streams))
    series = {label: figures for label, figures in series.items() if figures}
    for label, figures in series.items():
        rates = [figures[each]["actions_per_second"] for each in streams]
        axes.plot(places, rates, marker="o", label=label)
    for place, each in zip(places, streams, strict=True):
        ratio = report["ratio_to_floor"][each]
        top = max(figures[each]["actions_per_second"] for figures in series.values())
        axes.annotate(
            f"{ratio:.2f}", (place, top), xytext=(0, 6), textcoords="offset points", ha="center"
        )
    axes.set_xticks(list(places), streams)
    axes.set_xlabel("concurrent streams (above: ratio to the floor)")
    axes.set_ylabel("actions per second")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    machine = report["machine"]
    axes.set_title(
        f"{machine['cores']} cores for all, Postgres {machine['postgres']}, fsync on", fontsize=9
    )
    figure.savefig(file, format="png", dpi=120)
