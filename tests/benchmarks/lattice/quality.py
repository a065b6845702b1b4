"""Recall and nDCG of the rankings on labelled sets, beside plain cosine on the same queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oars_grpc.core.lattice.ranking import DEFAULT_RANKING, RankingParameters
from tests.benchmarks.lattice.measures import bootstrap_mean, ndcg_at, recall_at
from tests.benchmarks.lattice.peer import Peer
from tests.benchmarks.lattice.rankings import (
    Ranking,
    by_cosine,
    by_lattice,
    by_maximal_marginal_relevance,
    by_peer,
    by_peer_on_nearest,
    by_personalised_page_rank,
)
from tests.benchmarks.lattice.retrieval import Fold, RetrievalSet

DAMPINGS = (0.3, 0.5, 0.7, 0.85)
# What a full run finds best for PageRank on the development folds; a quick one does not look.
PAGE_RANK = (0.3, 8)
POWERS = (2, 4, 6, 8, 12)
SPREADS = (0.5, 1.0, 2.0, 4.0)
DIVERSITIES = (0.0, 0.02, 0.05, 0.1, 0.2)

# Recall and nDCG, one row for each query.
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One ranking on one set, held-out queries."""

    set: str
    ranking: str
    queries: int
    recall: float
    ndcg: float
    recall_gain: dict[str, float] | None  # against cosine on the same queries
    ndcg_gain: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {name: getattr(self, name) for name in self.__slots__}


def scores_of(ranking: Ranking, folds: Sequence[Fold]) -> Scores:
    """Recall@10 and nDCG@10 of every query, or of the first of each fold."""
    found = []
    for fold in folds:
        answer = ranking.ready(fold.corpus)
        for query, relevant in list(zip(fold.queries, fold.relevant, strict=True))[
            : ranking.most_queries
        ]:
            order = answer(query)
            found.append((recall_at(order, relevant), ndcg_at(order, relevant)))
    return np.array(found)


def same_queries(baseline: Scores, folds: Sequence[Fold], most: int | None) -> Scores:
    """The baseline's rows for the queries that a ranking with a limit was asked."""
    rows, start = [], 0
    for fold in folds:
        rows.append(baseline[start : start + len(fold.queries)][:most])
        start += len(fold.queries)
    return np.concatenate(rows)


def page_rank_of(sets: Sequence[RetrievalSet]) -> tuple[Ranking, list[dict[str, Any]]]:
    """Personalised PageRank with what is best for it on the development folds, on average."""
    settings = list(product(DAMPINGS, (4, 8)))
    tried = tuned(sets, [by_personalised_page_rank(*setting) for setting in settings])
    best = max(range(len(settings)), key=lambda at: tried[at]["mean_gain"])
    return by_personalised_page_rank(*settings[best]), tried


def lattice_settings() -> list[RankingParameters]:
    """The grid: all spreads and powers undiversified, then the default's diversities."""
    top = DEFAULT_RANKING.top
    plain = [RankingParameters(top, *pair, 0.0) for pair in product(SPREADS, POWERS)]
    spread, power = DEFAULT_RANKING.spread, DEFAULT_RANKING.power
    return plain + [RankingParameters(top, spread, power, each) for each in DIVERSITIES[1:]]


def tuned(sets: Sequence[RetrievalSet], rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Each ranking's gain over cosine on the development folds of every set."""
    baselines = [scores_of(by_cosine(), each.development) for each in sets]
    rows = []
    for ranking in rankings:
        gains = [
            (scores_of(ranking, each.development) - baseline).mean(axis=0).tolist()
            for each, baseline in zip(sets, baselines, strict=True)
        ]
        rows.append(
            {
                "ranking": ranking.name,
                "gains": {
                    each.name: {"recall": round(gain[0], 4), "ndcg": round(gain[1], 4)}
                    for each, gain in zip(sets, gains, strict=True)
                },
                "mean_gain": round(mean(value for gain in gains for value in gain), 4),
                "least_gain": round(min(value for gain in gains for value in gain), 4),
            }
        )
    return rows


def compared(
    sets: Sequence[RetrievalSet], peer: Peer | None, peer_queries: int, *, tune: bool
) -> dict[str, Any]:
    """Everything that is reported of rankings."""
    page_rank = by_personalised_page_rank(*PAGE_RANK)
    page_rank_grid: list[dict[str, Any]] = []
    if tune:
        page_rank, page_rank_grid = page_rank_of(sets)
    rankings = [by_lattice(), by_maximal_marginal_relevance(0.1), page_rank]
    if peer:
        rankings += [by_peer(peer, peer_queries), by_peer_on_nearest(peer, 100, peer_queries)]
    rows = [row for each in sets for row in _rows(each, rankings)]
    report: dict[str, Any] = {
        "sets": [
            {
                "name": each.name,
                "source": each.source,
                "corpus": [len(fold.corpus) for fold in each.held_out],
                "development_queries": sum(len(fold.queries) for fold in each.development),
            }
            for each in sets
        ],
        "rows": [row.to_json() for row in rows],
    }
    if tune:
        report["page_rank_development"] = page_rank_grid
        report["lattice_development"] = tuned(
            sets,
            [
                by_lattice(
                    each,
                    f"spread {each.spread:g}, power {each.power}, diversity {each.diversity:g}",
                )
                for each in lattice_settings()
            ],
        )
    return report


def _rows(data: RetrievalSet, rankings: Sequence[Ranking]) -> list[Row]:
    baseline = scores_of(by_cosine(), data.held_out)
    recall, ndcg = baseline.mean(axis=0).tolist()
    rows = [Row(data.name, "cosine", len(baseline), round(recall, 4), round(ndcg, 4), None, None)]
    for ranking in rankings:
        scores = scores_of(ranking, data.held_out)
        gains = scores - same_queries(baseline, data.held_out, ranking.most_queries)
        recall, ndcg = scores.mean(axis=0).tolist()
        rows.append(
            Row(
                data.name,
                ranking.name,
                len(scores),
                round(recall, 4),
                round(ndcg, 4),
                bootstrap_mean(gains[:, 0]).to_json(),
                bootstrap_mean(gains[:, 1]).to_json(),
            )
        )
    return rows
