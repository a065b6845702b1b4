"""Draws a lattice: its graph with what is in conflict, and how its energy falls.

Needs the extra `plots`.
"""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from oars_grpc.cli.lattice_build import BuiltLattice
from oars_grpc.cli.lattice_course import EnergyCourse
from oars_grpc.cli.lattice_layout import Plane, drawn_nodes
from oars_grpc.cli.visible_text import visible
from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, Int64Array
from oars_grpc.core.lattice.chain_verdict import ChainVerdict
from oars_grpc.core.lattice.conflicts import Conflicts
from oars_grpc.core.lattice.energy import ROUNDING
from oars_grpc.core.lattice.ranking import Ranking
from oars_grpc.errors import ConfigurationError

_DOTS_PER_INCH = 150
_CONFLICT, _CHAIN, _WEAKEST, _QUERY = "#c0392b", "#8e44ad", "#e67e22", "#111111"
_LONGEST_NAME = 24
_SPACE = 8.0  # points between a mark and its name


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn."""

    built: BuiltLattice
    query: Float32Array
    state: Float32Array  # N x D, settled under the query
    cosines: Float64Array  # of the anchors with the query
    ranking: Ranking
    conflicts: Conflicts
    verdict: ChainVerdict | None
    course: EnergyCourse
    most: int  # nodes to draw


def check_library() -> None:
    """Refuse at once what could not be drawn in the end.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    _library("matplotlib")


def draw(picture: Picture, file: BinaryIO, kind: str) -> None:
    """Write the picture as `png` or `svg`; the same lattice gives the same picture."""
    # Not by pyplot, which keeps figures, and looks for a screen.
    figure = _library("matplotlib.figure").Figure(figsize=(15, 7.5), layout="constrained")
    graph, energy = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_graph(graph, picture)
    _draw_energy(energy, picture.course)
    # Without a date, and with ids that do not change from run to run.
    with _library("matplotlib").rc_context({"svg.hashsalt": "oars"}), warnings.catch_warnings():
        # Of letters that the font does not have it draws boxes, and says so of each.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(file, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)


def _library(name: str) -> Any:
    # Imported when it is used: whoever draws nothing need not install it.
    try:
        return importlib.import_module(name)
    except ImportError as fault:
        raise ConfigurationError(
            "pictures need the library matplotlib: install oars-grpc[plots]"
        ) from fault


def _draw_graph(axes: Any, picture: Picture) -> None:
    inputs = picture.built.settled.inputs
    chain = np.empty(0, dtype=np.int64) if inputs.chain is None else inputs.chain.nodes
    always = np.concatenate([picture.ranking.nodes, chain[: picture.most]])
    nodes = drawn_nodes(picture.cosines, picture.most, always)
    places = Plane.of(picture.state).places(picture.state)
    shown = np.zeros(len(inputs), dtype=np.bool_)
    shown[nodes] = True
    _draw_edges(axes, picture, places, shown)
    marks = axes.scatter(
        *places[nodes].T,
        c=picture.cosines[nodes],
        cmap="viridis",
        vmin=-1.0,
        vmax=1.0,
        s=26,
        zorder=3,
        linewidths=0,
    )
    axes.figure.colorbar(marks, ax=axes, label="cosine with the query", shrink=0.7)
    _draw_conflicts(axes, picture, places, shown)
    _draw_chain(axes, picture, places)
    plane = Plane.of(picture.state)
    asked = plane.places(picture.query[None, :])[0]
    axes.plot(*asked, marker="*", markersize=17, color=_QUERY, linestyle="", label="query")
    for rank, node in enumerate(picture.ranking.nodes.tolist()):
        name = _plain(visible(picture.built.name(node))[:_LONGEST_NAME])
        axes.annotate(
            f"{rank + 1}: {name}",
            places[node],
            xytext=(_SPACE, _SPACE * (1 if rank % 2 else -1)),
            textcoords="offset points",
            fontsize=7,
            zorder=6,
        )
    hidden = len(inputs) - nodes.size
    of_all = f", {hidden:,} less like the query not drawn" if hidden else ""
    axes.set_title(
        f"{len(inputs):,} items, {len(inputs.graph.edges):,} edges,"
        f" {len(picture.conflicts):,} in conflict{of_all}"
    )
    axes.set_xlabel("first principal axis of the settled state")
    axes.set_ylabel("second")
    axes.legend(loc="best", fontsize=8)


def _draw_edges(axes: Any, picture: Picture, places: Float64Array, shown: Any) -> None:
    graph = picture.built.settled.inputs.graph
    drawn = shown[graph.edges].all(axis=1)
    weights = graph.edge_weights[drawn]
    if not weights.size:
        return
    colors = np.zeros((weights.size, 4))
    colors[:, :3] = 0.55
    colors[:, 3] = 0.1 + 0.5 * weights / max(1.0, float(weights.max(initial=0.0)))
    lines = _library("matplotlib.collections").LineCollection(
        places[graph.edges[drawn]], colors=colors, linewidths=0.8, zorder=1, label="edges"
    )
    axes.add_collection(lines)


def _draw_conflicts(axes: Any, picture: Picture, places: Float64Array, shown: Any) -> None:
    """A ring about each item in conflict, and dashed lines to the two that it joins."""
    found = picture.conflicts
    drawn = np.flatnonzero(shown[found.nodes])
    if not drawn.size:
        return
    nodes, pairs = found.nodes[drawn], found.pairs[drawn]
    axes.scatter(
        *places[nodes].T,
        s=90,
        facecolors="none",
        edgecolors=_CONFLICT,
        linewidths=1.6,
        zorder=4,
        label="in conflict, and the two it joins",
    )
    ends = _both(nodes, pairs)
    lines = _library("matplotlib.collections").LineCollection(
        places[ends], colors=_CONFLICT, linewidths=0.9, linestyles="dashed", zorder=2
    )
    axes.add_collection(lines)


def _both(nodes: Int64Array, pairs: Int64Array) -> Int64Array:
    """The links of each item to either of its pair."""
    return np.concatenate([np.stack([nodes, pairs[:, side]], axis=1) for side in (0, 1)])


def _draw_chain(axes: Any, picture: Picture, places: Float64Array) -> None:
    chain, verdict = picture.built.settled.inputs.chain, picture.verdict
    if chain is None or verdict is None:
        return
    told = "coherent" if verdict.coherent else "not coherent"
    way = places[chain.nodes]
    axes.plot(*way.T, color=_CHAIN, linewidth=1.4, zorder=2, label=f"chain: {told}")
    weakest = way[verdict.weakest_link : verdict.weakest_link + 2]
    axes.plot(*weakest.T, color=_WEAKEST, linewidth=2.6, zorder=2, label="its weakest link")


def _draw_energy(axes: Any, course: EnergyCourse) -> None:
    """What is left to lose, which a straight line on this scale means: by a share each time."""
    for counts, energies, label in (
        (course.iterations, course.energies, "the solver's iterations"),
        (range(len(course.by_steps)), course.by_steps, "settle steps (dt 1)"),
    ):
        left = np.array(energies) - course.settled
        real = left > ROUNDING * energies[0]
        axes.plot(np.array(counts)[real], left[real], marker="o", markersize=4, label=label)
    # Where settling had nothing to win there is nothing to draw by its powers of ten.
    if course.energies[0] > course.settled:
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"energy, from {course.energies[0]:.6g} to {course.settled:.6g}")
    axes.set_xlabel("iteration or step (0: at the anchors)")
    axes.set_ylabel("above that of the settled state")


def _plain(text: str) -> str:
    """Text that is drawn as it stands: a dollar would begin a formula."""
    return text.replace("$", r"\$")
