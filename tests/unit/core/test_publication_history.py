import pytest
from hypothesis import given
from hypothesis import strategies as st

from oars_grpc.core.publication_history import rollback_target


@pytest.mark.parametrize(
    ("publications", "target"),
    [
        ("", None),
        ("a", None),
        ("ab", "a"),
        ("abc", "b"),
        ("abcb", "a"),  # rolled back to b: further back is a
        ("abcba", None),
        ("abcbd", "b"),  # published after a rollback: what was withdrawn is gone
        ("abcbdb", "a"),
        ("abca", "c"),  # not directly under the top: a new publication
        ("abcac", "b"),  # rolling that back shows what was there before
        ("aab", "a"),
        ("aba", None),  # publishing what lies directly under the top is a rollback
    ],
)
def test_what_a_rollback_goes_back_to(publications: str, target: str | None) -> None:
    assert rollback_target(publications) == target


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_rolling_back_ends_after_as_many_steps_as_there_were_publications(
    publications: list[str],
) -> None:
    """It walks back, and never to and fro."""
    history = list(publications)
    for _ in range(len(publications)):
        target = rollback_target(history)
        if target is None:
            break
        assert target != history[-1]
        history.append(target)
    assert rollback_target(history) is None


@given(st.lists(st.integers(), unique=True, max_size=8))
def test_of_policies_published_once_each_all_are_visited_backwards(policies: list[int]) -> None:
    history = [str(policy) for policy in policies]
    for expected in [*map(str, policies[-2::-1]), None]:
        assert rollback_target(history) == expected
        if expected is not None:
            history.append(expected)
