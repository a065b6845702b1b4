"""The figures as tables of Markdown, ratios first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tests.benchmarks.lattice.evidence import SCORES

Figures = Mapping[str, Any]


def tables(report: Figures) -> str:
    """Every part that was measured."""
    makers: dict[str, Callable[[Any], str]] = {
        "speed": _speed,
        "scale": _scale,
        "million": _million,
        "ranking": _ranking,
        "grounding": _grounding,
        "outcomes": _outcomes,
        "contention": _contention,
    }
    parts = [
        f"## {name}\n\n{make(report[name])}" for name, make in makers.items() if name in report
    ]
    left_out = [f"left out: {reason}\n" for reason in report["left_out"]]
    return "\n".join([*parts, *left_out])


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(_text(cell) for cell in line)} |\n" for line in lines)


def _text(cell: object) -> str:
    return "" if cell is None else f"{cell:,.6g}" if isinstance(cell, float) else str(cell)


def _speed(rows: Sequence[Figures]) -> str:
    lines = []
    for row in rows:
        name = f"{row['anchors']:,} x {row['dimension']}, {row['data']}"
        for step in ("cold", "warm"):
            theirs = row.get(f"peer_{step}", {})
            lines.append(
                [
                    f"{step}, {name}",
                    row.get(f"{step}_ratio_of_least"),
                    row.get(f"{step}_ratio"),
                    row["targets"][step],
                    row[f"ours_{step}"]["least_ms"],
                    row[f"ours_{step}"]["median_ms"],
                    theirs.get("least_ms"),
                    theirs.get("median_ms"),
                    row.get("peer_receipt"),
                ]
            )
    header = ["", "ratio", "of medians", "target", "ms, least", "median"]
    table = _table([*header, "Oscillink, least", "median", "its receipt"], lines)
    light = [
        [
            f"{row['anchors']:,} x {row['dimension']}, {row['data']}",
            row["light_sums_us"],
            row["light_statement_us"],
            row["targets"]["light_us"],
        ]
        for row in rows
    ]
    return f"{table}\n{_table(['light receipt', 'sums µs', 'statement µs', 'target'], light)}"


def _scale(report: Figures) -> str:
    lines = []
    for part in ("exact", "index"):
        if part not in report["large"]:
            continue
        row = report["large"][part]
        searched = f"{row['search_s']:g}"
        lines.append(
            [
                f"{report['large']['anchors']:,} x {report['large']['dimension']}, {part}",
                searched,
                row.get("recall"),
                row["everything_else_s"],
                row["warm_ms"],
                row["light_sums_us"],
            ]
        )
    header = ["", "search s", "recall", "everything else s", "warm ms", "light µs"]
    grown = report["growth"]
    lines += [
        [
            f"{row['anchors']:,}, made-up graph",
            None,
            None,
            row["everything_else_s"],
            row["warm_ms"],
            row["light_sums_us"],
        ]
        for row in grown["rows"]
    ]
    return (
        f"{_table(header, lines)}\nTime outside the search grows as N to the"
        f" {grown['exponent_everything_else']:g}, of a warm query as N to the"
        f" {grown['exponent_warm']:g}.\n"
    )


def _million(row: Figures) -> str:
    if "left_out" in row:
        return f"{row['left_out']}\n"
    return _table(["", ""], list(row.items()))


def _ranking(report: Figures) -> str:
    lines = [
        [
            row["set"],
            row["ranking"],
            row["queries"],
            row["recall"],
            _gain(row["recall_gain"]),
            row["ndcg"],
            _gain(row["ndcg_gain"]),
        ]
        for row in report["rows"]
    ]
    header = ["set", "ranking", "queries", "recall@10", "against cosine"]
    return _table([*header, "nDCG@10", "against cosine"], lines)


def _gain(gain: Figures | None) -> str:
    if gain is None:
        return ""
    return f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def _interval(estimate: Figures) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _grounding(collections: Sequence[Figures]) -> str:
    lines, calibrated, contradicted = [], [], []
    for each in collections:
        lines += [
            [each["set"], kind, *(_interval(scores[name]) for name in SCORES)]
            for kind, scores in each["auroc"].items()
        ]
        calibrated += [
            [
                each["set"],
                name,
                _interval(found["auroc"]),
                found["brier"],
                found["ece"],
                found["base_rate"],
            ]
            for name, found in each["calibrated"].items()
        ]
        contradicted += [
            [each["set"], name, *(each["contradiction"][name][score] for score in SCORES)]
            for name in ("contradicted", "told")
        ]
    return "\n".join(
        [
            _table(["AUROC of grounded against", "", *SCORES], lines),
            _table(["as a probability", "", "AUROC", "Brier", "ECE", "base rate"], calibrated),
            _table(["AUROC of agreeing against", "", *SCORES], contradicted),
        ]
    )


def _outcomes(report: Figures) -> str:
    header = ["set, outcomes known", "calibrated", "AUROC", "Brier", "ECE", "base rate"]
    predicted = [
        [
            f"{row['set']}, {row['outcomes_known']:.0%}",
            f"{row['calibrated']:.0%}",
            _interval(row["auroc"]),
            row["brier"],
            row["ece"],
            row["base_rate"],
            row["mean_interval_width"],
        ]
        for row in report["predicted"]
    ]
    held = ["90 % interval", "probability", "holds it", "lies below it", "mean width", "error"]
    coverage = [
        [
            f"{row['set']}, {row['evidence']} items, {row['outcomes_known']:.0%} known",
            row["probability"],
            row["coverage"],
            row["above_the_interval"],
            row["mean_interval_width"],
            row["mean_error"],
        ]
        for row in report["coverage"]
    ]
    return f"{_table([*header, 'mean width'], predicted)}\n{_table(held, coverage)}"


def _contention(rows: Sequence[Figures]) -> str:
    header = ["", "p99 ratio", "target", "p50 idle ms", "p99 idle", "p50 busy", "p99 busy"]
    return _table(
        [*header, "refused", "build alone s", "beside queries"],
        [
            [
                f"{row['level']}, {row['callers']} callers",
                row["p99_ratio"],
                row["target_ratio"],
                row["idle"]["p50_ms"],
                row["idle"]["p99_ms"],
                row["during_a_build"]["p50_ms"],
                row["during_a_build"]["p99_ms"],
                row["idle"]["refused"] + row["during_a_build"]["refused"],
                row["build_alone_s"],
                row["build_beside_queries_s"],
            ]
            for row in rows
        ],
    )
