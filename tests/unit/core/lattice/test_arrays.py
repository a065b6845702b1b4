import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import (
    checked_anchors,
    checked_chain,
    checked_gates,
    checked_queries,
    checked_query,
)
from oars_grpc.core.lattice.limits import LatticeLimits, within_limits
from oars_grpc.core.lattice.parameters import (
    LaplacianKind,
    LatticeParameters,
    checked_parameters,
)
from oars_grpc.errors import InvalidArgument


def refused_field(refusal: pytest.ExceptionInfo[InvalidArgument]) -> str:
    return refusal.value.violations[0].field


@pytest.mark.parametrize(
    ("bad", "description"),
    [
        (np.nan, "finite, not nan"),
        (np.inf, "finite, not inf"),
        (-np.inf, "finite, not -inf"),
        (1e39, "from -1e+15 to 1e+15"),
        (1e16, "from -1e+15 to 1e+15"),
    ],
)
def test_a_number_out_of_range_is_refused_where_it_stands(bad: float, description: str) -> None:
    rows = np.ones((5, 9))
    rows[3, 7] = bad
    with pytest.raises(InvalidArgument, match=r"anchors\[3\]\[7\]") as refusal:
        checked_anchors(rows)
    assert description in refusal.value.violations[0].description


def test_a_number_far_down_is_named_by_its_own_row() -> None:
    rows = np.zeros((20_000, 2), dtype=np.float32)
    rows[17_001, 1] = np.nan
    with pytest.raises(InvalidArgument, match=r"anchors\[17001\]\[1\]"):
        checked_anchors(rows)


@pytest.mark.parametrize(
    "bad",
    [
        [[1.0, 2.0], [3.0]],
        [1.0, 2.0],
        [],
        np.empty((0, 3)),
        np.empty((3, 0)),
        np.ones((2, 2, 2)),
        [["a", "b"]],
        [[True, False]],
        [[1j, 2j]],
        [[None, 1.0]],
        None,
        1.0,
    ],
)
def test_what_is_no_table_of_numbers_is_no_anchors(bad: object) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        checked_anchors(bad)
    assert refused_field(refusal) == "anchors"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (LatticeLimits(max_anchors=3), "at most 3 anchors, not 4"),
        (LatticeLimits(max_dimension=4), "dimension of at most 4, not 5"),
        (LatticeLimits(max_bytes=79), "at most 79 bytes, not 80"),
    ],
)
def test_anchors_over_a_limit_are_refused_with_the_limit(limits: LatticeLimits, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        checked_anchors(np.ones((4, 5)), limits=limits)


def test_anchors_come_out_canonical_and_read_only() -> None:
    given = np.asfortranarray(np.array([[-0.0, 1.5], [2.0, -3.0]], dtype=">f8"))
    anchors = checked_anchors(given)
    assert anchors.tobytes() == np.array([[0.0, 1.5], [2.0, -3.0]], dtype="<f4").tobytes()
    assert anchors.flags.c_contiguous
    assert not anchors.flags.writeable
    given[0, 1] = 7.0
    assert anchors[0, 1] == 1.5


def test_integers_are_numbers_even_the_smallest() -> None:
    assert checked_anchors([[1, 2], [3, 4]]).dtype == np.float32
    with pytest.raises(InvalidArgument, match=r"anchors\[0\]\[0\]"):
        checked_anchors(np.array([[np.iinfo(np.int64).min, 1]]))


def test_queries_have_the_dimension_of_the_anchors() -> None:
    assert checked_query([1, 2, 3], 3).shape == (3,)
    assert checked_queries([[1, 2, 3]], 3).shape == (1, 3)
    for bad in ([1.0, 2.0], [[1.0, 2.0, 3.0]], 1.0):
        with pytest.raises(InvalidArgument) as refusal:
            checked_query(bad, 3)
        assert refused_field(refusal) == "query"
    with pytest.raises(InvalidArgument, match="dimension 3, not 2"):
        checked_queries([[1.0, 2.0]], 3)
    with pytest.raises(InvalidArgument, match="at most 1 queries, not 2"):
        checked_queries(np.ones((2, 3)), 3, limits=LatticeLimits(max_queries=1))
    with pytest.raises(InvalidArgument, match=r"query\[1\]"):
        checked_query([1.0, np.nan, 2.0], 3)


def test_gates_are_one_for_each_node_and_not_negative() -> None:
    assert checked_gates(None, 3).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(InvalidArgument, match=r"gates\[1\]: must be at least 0"):
        checked_gates([1.0, -2.0, 0.0], 3)
    with pytest.raises(InvalidArgument, match="gates: must be 3 numbers, not 2"):
        checked_gates([1.0, 2.0], 3)
    with pytest.raises(InvalidArgument, match=r"gates\[2\]: must be finite"):
        checked_gates([1.0, 1.0, np.nan], 3)


def test_a_chain_keeps_its_order_and_its_weights() -> None:
    chain = checked_chain([5, 2, 9, 2], 10, [0.5, 2.0, 1.0])
    assert chain.nodes.tolist() == [5, 2, 9, 2]
    assert chain.weights.tolist() == [0.5, 2.0, 1.0]
    assert checked_chain([1, 0], 2).weights.tolist() == [1.0]


@pytest.mark.parametrize(
    ("nodes", "weights", "field"),
    [
        ([0], None, "chain.nodes"),
        ([[0, 1]], None, "chain.nodes"),
        ([0.5, 1.0], None, "chain.nodes"),
        ([0, 3], None, "chain.nodes[1]"),
        ([-1, 1], None, "chain.nodes[0]"),
        ([0, 1, 1], None, "chain.nodes[2]"),
        ([0, 1, 2], [1.0], "chain.weights"),
        ([0, 1, 2], [1.0, 0.0], "chain.weights[1]"),
        ([0, 1, 2], [-1.0, 1.0], "chain.weights[0]"),
        ([0, 1, 2], [1.0, np.nan], "chain.weights[1]"),
    ],
)
def test_a_wrong_chain_is_refused_with_its_field(
    nodes: object, weights: object, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        checked_chain(nodes, 3, weights)
    assert refused_field(refusal) == field


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("neighbors", 0),
        ("neighbors", 6.0),
        ("neighbors", True),
        ("row_cap", 0.0),
        ("row_cap", np.nan),
        ("laplacian", "combinatorial graph"),
        ("anchor_weight", 0.0),
        ("anchor_weight", np.inf),
        ("graph_weight", -0.1),
        ("query_weight", np.nan),
        ("chain_weight", "1"),
        ("tolerance", 0.0),
        ("tolerance", 0.5),
        ("max_iterations", 0),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(member: str, value: object) -> None:
    members = {name: getattr(LatticeParameters(), name) for name in LatticeParameters.__slots__}
    with pytest.raises(InvalidArgument) as refusal:
        checked_parameters(LatticeParameters(**(members | {member: value})))
    assert refused_field(refusal) == f"parameters.{member}"


def test_the_defaults_are_sound_and_all_faults_are_told_at_once() -> None:
    assert checked_parameters(LatticeParameters()) == LatticeParameters()
    with pytest.raises(InvalidArgument) as refusal:
        checked_parameters(LatticeParameters(neighbors=0, graph_weight=-1.0))
    assert [v.field for v in refusal.value.violations] == [
        "parameters.neighbors",
        "parameters.graph_weight",
    ]
    assert LaplacianKind("normalized") is LaplacianKind.NORMALIZED


def test_a_callers_limits_bound_neighbours_and_iterations() -> None:
    few = LatticeLimits(max_neighbors=4, max_iterations=10)
    with pytest.raises(InvalidArgument) as refusal:
        within_limits(LatticeParameters(neighbors=5, max_iterations=11), few)
    assert [v.field for v in refusal.value.violations] == [
        "parameters.neighbors",
        "parameters.max_iterations",
    ]
    sound = LatticeParameters(neighbors=4, max_iterations=10)
    assert within_limits(sound, few) is sound
