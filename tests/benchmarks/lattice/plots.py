"""Five plots of one report, each in a PNG file beside the JSON."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Figures = Mapping[str, Any]


def plot(report: Figures, json_file: Path) -> list[Path]:
    """Draw what was measured; the files."""
    makers: dict[str, Callable[[Any], Figure]] = {
        "speed": _speed,
        "scale": _scale,
        "ranking": _ranking,
        "grounding": _grounding,
        "outcomes": _outcomes,
    }
    files = []
    for name, make in makers.items():
        # Without texts there are parts without rows.
        figures = report.get(name)
        rows = figures.get("predicted", figures) if isinstance(figures, dict) else figures
        if rows:
            file = json_file.with_name(f"{json_file.stem}-{name}.png")
            make(report[name]).savefig(file, format="png", dpi=120)
            files.append(file)
    return files


def _figure(columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(5.2 * columns, 3.8), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for each in axes:
        each.grid(visible=True, alpha=0.3)
    return figure, axes


def _speed(rows: Sequence[Figures]) -> Figure:
    figure, (axes,) = _figure()
    names, ours, theirs = [], [], []
    for row in rows:
        for step in ("cold", "warm"):
            names.append(f"{step}\n{row['anchors']:,} x {row['dimension']}\n{row['data']}")
            ours.append(row[f"ours_{step}"]["least_ms"])
            theirs.append(row.get(f"peer_{step}", {}).get("least_ms"))
    places = list(range(len(names)))
    axes.bar([place - 0.2 for place in places], ours, 0.4, label="OARS")
    if all(theirs):
        axes.bar([place + 0.2 for place in places], theirs, 0.4, label="Oscillink")
    axes.set_xticks(places, names, fontsize=7)
    axes.set_yscale("log")
    axes.set_ylabel("ms, least of all rounds")
    axes.legend(frameon=False)
    return figure


def _scale(report: Figures) -> Figure:
    figure, (axes,) = _figure()
    rows = report["growth"]["rows"]
    sizes = [row["anchors"] for row in rows]
    axes.loglog(
        sizes, [row["everything_else_s"] * 1e3 for row in rows], "o-", label="outside the search"
    )
    axes.loglog(sizes, [row["warm_ms"] for row in rows], "o-", label="warm query")
    axes.loglog(
        sizes, [row["light_sums_us"] / 1e3 for row in rows], "o-", label="sums of a light receipt"
    )
    axes.set_xlabel("anchors")
    axes.set_ylabel("ms")
    axes.legend(frameon=False)
    return figure


def _ranking(report: Figures) -> Figure:
    rows = [row for row in report["rows"] if row["ndcg_gain"] and row["ndcg_gain"]["high"] > -0.1]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure, all_axes = _figure(len(sets))
    for axes, name in zip(all_axes, sets, strict=True):
        own = [row for row in rows if row["set"] == name]
        gains = [row["ndcg_gain"] for row in own]
        values = [gain["value"] for gain in gains]
        reach = [
            [gain["value"] - gain["low"] for gain in gains],
            [gain["high"] - gain["value"] for gain in gains],
        ]
        axes.errorbar(values, range(len(own)), xerr=reach, fmt="o", capsize=3)
        axes.set_yticks(range(len(own)), [row["ranking"].split(",")[0] for row in own], fontsize=7)
        axes.locator_params(axis="x", nbins=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("nDCG@10 against cosine, 95 %")
        axes.set_title(name, fontsize=9)
    return figure


def _grounding(collections: Sequence[Figures]) -> Figure:
    figure, all_axes = _figure(2 * len(collections))
    for at, each in enumerate(collections):
        left, right = all_axes[2 * at], all_axes[2 * at + 1]
        for name, curve in each["roc"].items():
            left.plot(curve["false_positive"], curve["true_positive"], label=name)
        left.set_xlabel("ungrounded that pass")
        left.set_ylabel("grounded that pass")
        left.set_title(f"{each['set']}: ROC", fontsize=9)
        left.legend(frameon=False, fontsize=7)
        for name, found in each["calibrated"].items():
            predicted, observed, _cases = zip(*found["bins"], strict=True)
            right.plot(predicted, observed, "o-", label=f"{name}, ECE {found['ece']:.3f}")
        right.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        right.set_xlabel("predicted")
        right.set_ylabel("grounded")
        right.set_title(f"{each['set']}: calibration", fontsize=9)
        right.legend(frameon=False, fontsize=7)
    return figure


def _outcomes(report: Figures) -> Figure:
    """Predictions against what came to pass, and how often the interval holds the truth."""
    figure, (left, right) = _figure(2)
    for row in report["predicted"]:
        predicted, observed, _cases = zip(*row["bins"], strict=True)
        name = f"{row['set']}, {row['outcomes_known']:.0%} known, ECE {row['ece']:.3f}"
        left.plot(predicted, observed, "o-", label=name)
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    left.set_xlabel("predicted risk")
    left.set_ylabel("bad outcomes")
    left.legend(frameon=False, fontsize=6)
    rows = report["coverage"]
    right.barh(range(len(rows)), [row["coverage"] for row in rows])
    names = [
        f"{row['set']}, {row['probability']}, {row['evidence']}, {row['outcomes_known']:.0%}"
        for row in rows
    ]
    right.set_yticks(range(len(rows)), names, fontsize=5)
    for nominal in {row["nominal"] for row in rows}:
        right.axvline(nominal, color="black", linewidth=0.8)
    right.set_xlabel("intervals that hold the probability")
    return figure
